//! The examples of the documents run: those whose language is installed here.

use std::process::Stdio;

use tokio::process::Command;

use crate::support::{Client, Setup};

/// The language of a block, the file that it is put into, and what runs it.
const RUNNERS: [(&str, &str, &[&str]); 6] = [
    ("python", "publish.py", &["python3", "publish.py"]),
    ("js", "publish.mjs", &["node", "publish.mjs"]),
    ("go", "publish.go", &["go", "run", "publish.go"]),
    ("java", "Publish.java", &["java", "Publish.java"]),
    ("php", "publish.php", &["php", "publish.php"]),
    ("ruby", "publish.rb", &["ruby", "publish.rb"]),
];

fn block<'a>(document: &'a str, language: &str) -> &'a str {
    let (_, rest) = document.split_once(&format!("\n```{language}\n")).unwrap();
    rest.split_once("\n```\n").unwrap().0
}

async fn is_installed(program: &str) -> bool {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("command -v {program}")]);
    command
        .stdout(Stdio::null())
        .status()
        .await
        .unwrap()
        .success()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_publishing_example_publishes() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/publishing.md");
    let document = std::fs::read_to_string(path).unwrap();
    let setup = Setup::memory()
        .set("dev", "false")
        .set("publish.keys", "a-key");
    let gateway = setup.start().await;
    let client = Client::of(&[gateway.address], "demo").open().await;
    let mut events = 0;
    for (language, file, runner) in RUNNERS {
        let source = block(&document, language);
        if !is_installed(runner[0]).await {
            eprintln!("not run: {} is not installed", runner[0]);
            continue;
        }
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(file), source).unwrap();
        let output = Command::new(runner[0])
            .args(&runner[1..])
            .current_dir(directory.path())
            .env("GATEWAY", format!("http://{}", gateway.address))
            .env("KEY", "a-key")
            .output()
            .await
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{language}: {error}");
        events += 1;
        client.wait_events(events).await;
        let data = client.data();
        let from: serde_json::Value = serde_json::from_str(data.last().unwrap()).unwrap();
        assert!(from["from"].is_string(), "{language}: {data:?}");
    }
    assert!(events > 0, "not one of the languages is installed");
}
