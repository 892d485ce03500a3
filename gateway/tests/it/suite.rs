//! The fault suite: a small world of gateways, clients and publishers on one deployment of Redis, faults injected under load,
//! and after each of them the same question: has every client exactly what was acknowledged to publishers, in order?
//!
//! `cargo test` runs each fault once on each deployment and a short random sequence. With `SSE_FAULT_ROUNDS=n` it is n random
//! faults, under more load and 1,000 short-lived streams a second. The seed is printed; `SSE_FAULT_SEED` repeats it, and
//! `SSE_FAULT_ONLY=name,name` picks faults.

mod check;
mod churn;
mod deployment;
mod failover;
mod fault;
mod inject;
mod ledger;
mod pressure;
mod publisher;
mod report;
mod view;
mod world;

use deployment::Topology;
use fault::Fault;
use world::{Size, World};

/// Random faults after each one alone, in the short version.
const SHORT_SEQUENCE: usize = 4;

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

fn number(name: &str) -> Option<u64> {
    variable(name).map(|text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a number, not {text:?}"))
    })
}

async fn run(topology: Topology) {
    let seed = number("SSE_FAULT_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("{topology:?}: SSE_FAULT_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let only = variable("SSE_FAULT_ONLY");
    let faults: Vec<Fault> = Fault::of(topology)
        .into_iter()
        .filter(|fault| {
            let name = format!("{fault:?}");
            match &only {
                Some(only) => only.split(',').any(|one| one == name),
                None => true,
            }
        })
        .collect();
    if faults.is_empty() {
        return;
    }
    let rounds = number("SSE_FAULT_ROUNDS");
    let (plan, size): (Vec<Fault>, _) = match rounds {
        Some(rounds) => {
            let mut plan = Vec::new();
            while plan.len() < usize::try_from(rounds).unwrap() {
                // All of them, each time in another order.
                let mut turn = faults.clone();
                random.shuffle(&mut turn);
                plan.append(&mut turn);
            }
            plan.truncate(usize::try_from(rounds).unwrap());
            (plan, Size::LONG)
        }
        None => {
            let mut plan = faults.clone();
            plan.extend((0..SHORT_SEQUENCE).map(|_| faults[random.usize(..faults.len())]));
            (plan, Size::SHORT)
        }
    };
    let mut world = World::start(topology, size, random).await;
    for fault in plan {
        world.round(fault).await;
    }
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_a_single_redis() {
    run(Topology::Single).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_with_sentinels() {
    run(Topology::Sentinel).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_a_cluster() {
    run(Topology::Cluster).await;
}
