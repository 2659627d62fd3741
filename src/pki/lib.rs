//! Who a workload is, proved: a certificate authority, certificates that renew themselves, a trust bundle that
//! changes while traffic runs, and the TLS configurations and SPIFFE verifiers made of them.

mod bundle;
mod certificate;
mod clock;
mod error;
mod issuer;
mod local;
mod observer;
pub mod remote;
mod request;
mod seal;
mod store;
#[cfg(test)]
mod testing;
mod tls;
mod verify;

pub use bundle::{Root, RootId, TrustBundle};
pub use certificate::{Issued, Validity};
pub use clock::{Clock, SystemClock};
pub use error::{CaError, PeerError, PkiError};
pub use issuer::{Authority, BoxFuture, Issuer, IssuerId};
pub use local::{CaFiles, LocalCa};
pub use observer::{Observer, Silent};
pub use request::{RequestError, Signer};
pub use seal::SealingKey;
pub use store::{CertificateReport, Held, Store, StoreConfig, Trust};
pub use tls::control_server;
pub use verify::{PeerCertificate, Side, peer};
