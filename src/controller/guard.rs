//! Stands in front of all services: who calls is known before anything is read.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use aquifer_telemetry::Telemetry;
use http::{HeaderMap, Request, Response, header::AUTHORIZATION};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::caller::{Caller, Callers};

/// Paths that node proxies alone may call.
const NODES_ONLY: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/";

/// All callers whose address is not known are bounded as one.
const UNKNOWN: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Lets nobody through who has not shown a token, and hands on who it was.
#[derive(Clone)]
pub(crate) struct Guard {
    callers: Arc<Callers>,
    telemetry: Telemetry,
}

impl Guard {
    pub(crate) fn new(callers: Arc<Callers>, telemetry: Telemetry) -> Self {
        Self { callers, telemetry }
    }
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { callers: self.callers.clone(), telemetry: self.telemetry.clone(), inner }
    }
}

/// A service behind the guard.
#[derive(Clone)]
pub(crate) struct Guarded<S> {
    callers: Arc<Callers>,
    telemetry: Telemetry,
    inner: S,
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let callers = self.callers.clone();
        // The one that is ready serves; its copy waits to become so.
        let waiting = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, waiting);
        let (token, path) = (token(request.headers()).map(str::to_owned), request.uri().path().to_owned());
        let from = request.extensions().get::<SocketAddr>().map_or(UNKNOWN, SocketAddr::ip);
        let telemetry = self.telemetry.clone();
        Box::pin(async move {
            match judge(&callers, token, from, &path).await {
                Ok(caller) => {
                    request.extensions_mut().insert(caller);
                    inner.call(request).await
                }
                Err(status) => {
                    telemetry.controller().refused(code(status.code()));
                    tracing::warn!(
                        %from,
                        path = plain(&path),
                        reason = status.message(),
                        "a call was refused"
                    );
                    Ok(status.into_http())
                }
            }
        })
    }
}

/// A word for the metric.
fn code(code: Code) -> &'static str {
    match code {
        Code::Unauthenticated => "unauthenticated",
        Code::PermissionDenied => "no-node",
        Code::ResourceExhausted => "too-many",
        Code::Unavailable => "api-server-away",
        _ => "other",
    }
}

/// A path of a caller, fit for a log.
fn plain(path: &str) -> String {
    path.chars().filter(|c| !c.is_control()).take(200).collect()
}

async fn judge(
    callers: &Callers,
    token: Result<String, Status>,
    from: IpAddr,
    path: &str,
) -> Result<Caller, Status> {
    let caller = callers.judge(&token?, from).await?;
    if path.starts_with(NODES_ONLY) && !caller.is_node {
        let who = format!("{}/{}", caller.namespace, caller.service_account);
        return Err(Status::permission_denied(format!(
            "{who} is no node proxy, and is told nothing of the mesh"
        )));
    }
    Ok(caller)
}

fn token(headers: &HeaderMap) -> Result<&str, Status> {
    let value = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = value.and_then(|value| value.strip_prefix("Bearer "));
    token.ok_or_else(|| Status::unauthenticated("the call has no bearer token"))
}
