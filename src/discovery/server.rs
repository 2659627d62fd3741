//! The discovery service: one feed for all streams, and a stream that tells the difference between what it told and now.

mod answers;
mod feed;
mod istio;
mod store;
mod stream;
mod subscription;

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::proto::xds::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use crate::proto::xds::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
pub use feed::{Feed, Listener, Rejection};

/// Answers under way on one stream. A reader that is slower holds up its own stream only, which then tells the sum of what came
/// meanwhile.
const UNDER_WAY: usize = 4;

/// Bytes of a request. A client that comes back names each thing that it has, with its version: 100 bytes each, and no type has more than
/// half a million.
const MAX_REQUEST: usize = 64 << 20;

/// The service over a feed, for a gRPC server. Who may call is decided in front of it.
pub fn service(feed: Arc<Feed>) -> AggregatedDiscoveryServiceServer<Discovery> {
    AggregatedDiscoveryServiceServer::new(Discovery { feed }).max_decoding_message_size(MAX_REQUEST)
}

/// The service itself.
#[derive(Debug)]
pub struct Discovery {
    feed: Arc<Feed>,
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Discovery {
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (answers, stream) = mpsc::channel(UNDER_WAY);
        tokio::spawn(stream::serve(self.feed.clone(), request.into_inner(), answers));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

#[cfg(test)]
mod tests;
