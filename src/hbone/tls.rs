//! TLS 1.3 of a tunnel: the handshake is rustls', the records after it are sealed and opened here, in place.
//!
//! rustls copies each record's plaintext between buffers of its own, twice on each side. For a tunnel that is most of what
//! user space does to a byte. So once its handshake is done, rustls hands the traffic keys over by the interface that it has
//! for kernel TLS, and stays in charge of what else there is: key updates and session tickets.

mod cipher;
mod handshake;
mod record;

pub(crate) use handshake::{Established, Failed, Kernel, accept, connect};
pub(crate) use record::{MAX_PLAIN, Opener, RECORD_HEADER, RECORD_OVERHEAD, RECORD_TAIL, Sealer, content};
