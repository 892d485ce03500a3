//! What sentinels and cluster nodes say of their deployment, and where refusals lead.

use protocol::keys::SLOTS;
use protocol::servers::{Address, redirection};
use redis::Value;

pub fn check(bytes: &[u8]) {
    let asked = Address::Tcp("h".into(), 1);
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Some((slot, Address::Tcp(host, port))) = redirection(&asked, text)
    {
        let again = match host.contains(':') {
            true => format!("{slot} [{host}]:{port}"),
            false => format!("{slot} {host}:{port}"),
        };
        let same = Address::Tcp(host.clone(), port);
        // Brackets inside of a name are nobody's host; they are not written again.
        if !host.is_empty()
            && host != "?"
            && host == host.trim_matches(['[', ']'])
            && host == host.trim()
        {
            assert_eq!(redirection(&asked, &again), Some((slot, same)), "{again}");
        }
    }
    let Ok(value) = redis::parse_redis_value(bytes) else {
        return;
    };
    let info = Value::BulkString(b"cluster_state:ok\r\ncluster_current_epoch:7\r\n".to_vec());
    let values = match value {
        Value::Array(values) if values.len() == 2 => values,
        value => vec![info, value],
    };
    if let Some(layout) = protocol::servers::layout_of(&asked, false, &values) {
        let mut served = 0;
        for slot in 0..SLOTS {
            if let Some(address) = layout.primary_of(slot) {
                served += 1;
                let mut primaries = layout.primaries().iter();
                assert!(primaries.any(|primary| primary.address == *address));
            }
        }
        assert_eq!(served + layout.uncovered(), usize::from(SLOTS));
        assert_eq!(layout.primary_of(SLOTS), None);
        assert!(layout.routes_as(&layout));
        let moved = layout.moved(5, Address::Tcp("m".into(), 2));
        assert_eq!(moved.primary_of(5), Some(&Address::Tcp("m".into(), 2)));
        assert_eq!(moved.primary_of(6), layout.primary_of(6));
    }
    if let Some(layout) = protocol::servers::layout_of(&asked, true, &values) {
        assert_eq!((layout.primaries().len(), layout.uncovered()), (1, 0));
    }
}
