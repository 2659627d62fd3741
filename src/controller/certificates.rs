//! The certificate service: Istio's, with the mesh's own rule of who may have what.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aquifer_model::{Identity, TrustDomain};
use aquifer_pki::remote::IMPERSONATED;
use aquifer_pki::remote::proto::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use aquifer_pki::remote::proto::{IstioCertificateRequest, IstioCertificateResponse};
use aquifer_pki::{RequestError, Validity};
use aquifer_telemetry::Telemetry;
use prost_types::value::Kind;
use tonic::{Request, Response, Status};
use tracing::{info, warn};

use crate::authority::Authority;
use crate::caller::Caller;
use crate::events::{Events, Refusal};
use crate::grants::Grants;
use crate::rates::Rates;

/// The longest life of a certificate, and that of one whose request names none.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Certificates that one caller may ask for: at once, as a node that starts does for the accounts of all its pods, and each second from
/// then on.
const ASKED: (u32, u32) = (500, 20);

/// How long a pod is waited for that this replica does not know yet: the caller heard of it from another, or from the container runtime.
const PATIENCE: Duration = Duration::from_secs(2);

/// Bytes of a request at most.
const MAX_REQUEST: usize = 64 * 1024;

pub(crate) struct Certificates {
    authority: Arc<Authority>,
    grants: Arc<Grants>,
    trust_domain: TrustDomain,
    events: Events,
    telemetry: Telemetry,
    rates: Rates<String>,
}

impl Certificates {
    pub(crate) fn new(
        authority: Arc<Authority>,
        grants: Arc<Grants>,
        trust_domain: TrustDomain,
        events: Events,
        telemetry: Telemetry,
    ) -> Self {
        Self { authority, grants, trust_domain, events, telemetry, rates: Rates::new(ASKED.0, ASKED.1) }
    }

    pub(crate) fn service(self) -> IstioCertificateServiceServer<Self> {
        IstioCertificateServiceServer::new(self).max_decoding_message_size(MAX_REQUEST)
    }

    /// Whom the certificate is for: whom the request names, else who asks.
    fn identity(&self, request: &IstioCertificateRequest, caller: &Caller) -> Result<Identity, Status> {
        let named = request.metadata.as_ref().and_then(|metadata| metadata.fields.get(IMPERSONATED));
        match named.and_then(|value| value.kind.as_ref()) {
            Some(Kind::StringValue(text)) => {
                text.parse().map_err(|error| Status::invalid_argument(format!("{IMPERSONATED}: {error}")))
            }
            Some(_) => Err(Status::invalid_argument(format!("{IMPERSONATED} is no text"))),
            None => Ok(Identity::new(
                self.trust_domain.clone(),
                caller.namespace.as_str(),
                caller.service_account.as_str(),
            )),
        }
    }

    /// A node that asks for what is not its own is put down at the Node, where its owner looks.
    fn not_allowed(&self, caller: &Caller, why: String) -> Status {
        if let Some(node) = caller.node.as_ref().filter(|_| caller.is_node) {
            let who = format!("{}/{}", caller.namespace, caller.pod.as_deref().unwrap_or("(no pod)"));
            let note = format!("{who} asked for an identity that it may not have: {why}");
            self.events.say(Refusal::identity(node, note, SystemTime::now()));
        }
        self.refuse("not-allowed", caller, Status::permission_denied(why))
    }

    fn refuse(&self, reason: &'static str, caller: &Caller, status: Status) -> Status {
        self.telemetry.certificates().failed(reason);
        warn!(
            caller = format!("{}/{}", caller.namespace, caller.service_account),
            pod = caller.pod,
            node = caller.node,
            reason,
            why = status.message(),
            "a certificate was refused"
        );
        status
    }
}

#[tonic::async_trait]
impl IstioCertificateService for Certificates {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        let caller = caller.ok_or_else(|| Status::internal("nobody judged who calls"))?;
        let request = request.into_inner();
        let identity =
            self.identity(&request, &caller).map_err(|status| self.refuse("bad-request", &caller, status))?;
        let who = format!(
            "{}/{}/{}",
            caller.namespace,
            caller.service_account,
            caller.pod.as_deref().unwrap_or("")
        );
        if !self.rates.allow(&who, Instant::now()) {
            let status =
                Status::resource_exhausted("this caller asks for too many certificates; wait a second");
            return Err(self.refuse("too-many", &caller, status));
        }
        self.grants
            .allow_within(&caller, &identity, PATIENCE)
            .await
            .map_err(|why| self.not_allowed(&caller, why))?;
        let wanted = u64::try_from(request.validity_duration).ok().filter(|seconds| *seconds > 0);
        let lifetime = wanted.map_or(LIFETIME, Duration::from_secs).min(LIFETIME);
        let validity = Validity::starting(SystemTime::now(), lifetime);
        let signer = self.authority.signer();
        let chain = signer.sign(&request.csr, &identity, validity).map_err(|error| match error {
            RequestError::Authority(error) => {
                self.refuse("authority", &caller, Status::internal(error.to_string()))
            }
            error => self.refuse("bad-request", &caller, Status::invalid_argument(error.to_string())),
        })?;
        self.telemetry.certificates().issued(false);
        info!(%identity, node = caller.node, "certificate signed");
        let mut cert_chain: Vec<String> =
            chain.iter().map(|der| pem::encode(&pem::Pem::new("CERTIFICATE", der.as_ref()))).collect();
        cert_chain.push(self.authority.roots());
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}
