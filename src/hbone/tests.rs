//! Both halves against each other over loopback with real TLS, and against raw HTTP/2 peers that behave badly.

mod handshake;
mod hostile;
mod peers;
mod records;
mod streams;
pub(crate) mod support;
mod windows;
