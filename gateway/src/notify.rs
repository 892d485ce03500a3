//! What systemd is told of a unit with `Type=notify` (sd_notify(3)); nothing elsewhere.

/// Sends a state such as `READY=1` to the socket that `NOTIFY_SOCKET` names. A manager that is not there, or does
/// not listen, is no reason to fail.
#[cfg(target_os = "linux")]
pub fn notify(state: &str) {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    let sent = address
        .and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address));
    if let Err(error) = sent {
        tracing::debug!(%error, state, "The service manager was not told.");
    }
}

/// There is no such manager on other systems.
#[cfg(not(target_os = "linux"))]
pub fn notify(_: &str) {}

/// The state that begins a reload: it ends with `READY=1`.
#[must_use]
pub fn reloading() -> String {
    #[cfg(target_os = "linux")]
    {
        use rustix::time::{ClockId, clock_gettime};
        let now = clock_gettime(ClockId::Monotonic);
        let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        format!("RELOADING=1\nMONOTONIC_USEC={micros}")
    }
    #[cfg(not(target_os = "linux"))]
    {
        "RELOADING=1".to_owned()
    }
}
