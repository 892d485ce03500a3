use super::*;
use protocol::Event;

struct Plain;
impl Encoder for Plain {
    fn event(&self, out: &mut Vec<u8>, event: &Event) -> Range<usize> {
        out.push(b'<');
        out.extend_from_slice(&event.data);
        out.push(b'>');
        1..1 + event.data.len()
    }
    fn control(&self, out: &mut Vec<u8>, _: Control<'_>) -> Range<usize> {
        out.extend_from_slice(b"<!>");
        1..2
    }
}

fn stored(ms: u64, prev: u64, data: &'static str) -> Item {
    let id = |ms| EventId::new(ms, 0);
    Item::Event(Event {
        id: Some(id(ms)),
        prev: Some(id(prev)),
        name: Default::default(),
        data: data.into(),
        trace: None,
    })
}

fn passing(data: &'static str) -> Item {
    Item::Event(Event {
        id: None,
        prev: None,
        name: Default::default(),
        data: data.into(),
        trace: None,
    })
}

fn all(log: &RoomLog, mut offset: u64, view: View) -> String {
    let mut out = Vec::new();
    while let Some((run, next)) = log.next_run(offset, view) {
        out.extend_from_slice(log.slice(run));
        offset = next;
    }
    String::from_utf8(out).unwrap()
}

fn sample() -> RoomLog {
    let mut log = RoomLog::new(EventId::new(5, 0));
    for item in [
        stored(6, 5, "six"),
        passing("p"),
        Item::Skipped(EventId::new(7, 0)),
        stored(8, 7, "eight"),
    ] {
        log.append(&item, &Plain);
    }
    log
}

#[test]
fn a_slice_is_everything_since_a_cursor() {
    let log = sample();
    let Place::At(from) = log.locate(EventId::new(5, 0)) else {
        panic!()
    };
    assert_eq!(log.slice(from..log.end()), b"<six><p><eight>");
    let Place::At(from) = log.locate(EventId::new(7, 0)) else {
        panic!()
    };
    assert_eq!(log.slice(from..log.end()), b"<eight>");
    assert_eq!(log.locate(EventId::new(8, 0)), Place::At(log.end()));
    assert_eq!(log.locate(EventId::new(9, 0)), Place::Ahead);
    assert_eq!(log.locate(EventId::new(4, 0)), Place::Before);
    assert_eq!(log.locate(EventId::new(6, 1)), Place::Missing);
}

#[test]
fn a_replay_leaves_out_what_only_passed() {
    let log = sample();
    let view = View {
        identity: false,
        replay_until: log.end(),
        floor: EventId::ZERO,
    };
    assert_eq!(all(&log, log.start(), view), "<six><eight>");
    assert_eq!(
        all(
            &log,
            log.start(),
            View {
                identity: true,
                ..view
            }
        ),
        "sixeight"
    );
    assert_eq!(
        all(
            &log,
            log.start(),
            View {
                floor: EventId::new(6, 0),
                ..view
            }
        ),
        "<eight>"
    );
    assert_eq!(all(&log, log.start() + 2, view), "ix><eight>");
    assert_eq!(
        all(
            &log,
            log.start() + 2,
            View {
                identity: true,
                ..view
            }
        ),
        "ixeight"
    );
}

#[test]
fn history_goes_in_front_and_cursors_stay() {
    let mut log = sample();
    let cursor = log.start();
    log.prepend(
        &[
            stored(3, 0, "three"),
            stored(5, 3, "five"),
            stored(6, 5, "six"),
        ],
        true,
        true,
        (1000, 100),
        &Plain,
    );
    assert_eq!(log.slice(log.start()..cursor), b"<three><five>");
    assert_eq!(log.floor(), EventId::ZERO);
    assert!(log.complete());
    assert_eq!(log.locate(EventId::new(3, 0)), Place::At(cursor - 6));
    assert_eq!(
        log.recent(2).unwrap().1,
        EventId::new(7, 0).min(EventId::new(5, 0))
    );
    assert_eq!(log.recent(9).unwrap(), (log.start(), EventId::ZERO));
}

#[test]
fn eviction_moves_the_floor() {
    let mut log = sample();
    let cut = log.cut(1000, 2);
    assert_eq!(
        log.seen_at(log.start() + 1),
        (EventId::new(6, 0), Some(log.start() + 5))
    );
    log.evict(cut);
    assert_eq!(log.len(), 1);
    assert_eq!(log.slice(log.start()..log.end()), b"<eight>");
    assert_eq!(log.floor(), EventId::new(7, 0));
    let cut = log.cut(1, 100);
    assert_eq!(cut, log.end());
}
