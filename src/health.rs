//! gRPC's health service, which says NOT_SERVING when the drain begins.

use crate::drain::{Drain, Phase, Reached};
use futures_core::Stream;
use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tonic::{Request, Response, Status};
use tonic_health::{
    pb::{
        HealthCheckRequest, HealthCheckResponse,
        health_check_response::ServingStatus,
        health_server::{Health, HealthServer},
    },
    server::{HealthReporter, HealthService, WatchStream},
};

impl Drain {
    /// gRPC's [health service](https://github.com/grpc/grpc/blob/master/doc/health-checking.md), in
    /// place of the one that tonic-health gives with its reporter.
    ///
    /// It says what the reporter has been told, until [`Phase::LameDuck`]: from then on each service that it
    /// knows is NOT_SERVING, the server as a whole (`""`) too, whatever it is told. Who watches is told so,
    /// and the watch ends at [`Phase::Draining`], where it would hold the drain.
    ///
    /// As from tonic-health itself, who wants to watch a service that the reporter does not know is told
    /// NOT_FOUND (the protocol has a SERVICE_UNKNOWN for that), and may come again.
    ///
    /// Let the layer exempt its `Check`, which probes ask to the end; who comes to watch after that is
    /// refused like any other.
    ///
    /// ```no_run
    /// use tonic::transport::Server;
    /// use tower_graceful::Drain;
    ///
    /// # async fn f(drain: Drain) -> Result<(), Box<dyn std::error::Error>> {
    /// let (health, _) = tonic_health::server::health_reporter();
    /// # type MyService = tonic_health::pb::health_server::HealthServer<()>;
    /// // health.set_serving::<MyService>().await;
    /// let probes = |request: &http::Request<_>| request.uri().path() == "/grpc.health.v1.Health/Check";
    /// let listener = drain.bind("[::]:50051").await?;
    /// let service = drain.grpc_health(health);
    /// // With other services: `.add_service(greeter).add_service(service)`, as tonic has it.
    /// let server = Server::builder()
    ///     .layer(drain.layer().exempt(probes))
    ///     .serve_with_incoming_shutdown(service, listener, drain.shutdown_signal());
    /// # Ok(())
    /// # }
    /// ```
    pub fn grpc_health(&self, reporter: HealthReporter) -> HealthServer<GrpcHealth> {
        HealthServer::new(GrpcHealth {
            inner: HealthService::from_health_reporter(reporter),
            drain: self.clone(),
        })
    }
}

/// gRPC's health service, as the drain says; from [`Drain::grpc_health`].
#[derive(Debug)]
pub struct GrpcHealth {
    inner: HealthService,
    drain: Drain,
}

#[tonic::async_trait]
impl Health for GrpcHealth {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        // First, so that an unknown service stays unknown.
        let response = self.inner.check(request).await?;
        match self.drain.phase() {
            Phase::Serving => Ok(response),
            _ => Ok(Response::new(not_serving())),
        }
    }

    type WatchStream = HealthWatch;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthWatch>, Status> {
        let response = self.inner.watch(request).await?;
        Ok(response.map(|updates| HealthWatch {
            updates: Some(updates),
            last: None,
            begun: self.drain.reached(Phase::LameDuck),
            ends: Some(self.drain.reached(Phase::Draining)),
        }))
    }
}

fn not_serving() -> HealthCheckResponse {
    HealthCheckResponse {
        status: ServingStatus::NotServing.into(),
    }
}

/// What a client sees that watches.
pub struct HealthWatch {
    /// What the reporter is told, until the drain begins.
    updates: Option<WatchStream>,
    /// What was said last.
    last: Option<i32>,
    begun: Reached,
    /// `None` once it has.
    ends: Option<Reached>,
}

impl Stream for HealthWatch {
    type Item = Result<HealthCheckResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Some(updates) = &mut this.updates {
            if Pin::new(&mut this.begun).poll(cx).is_pending() {
                let update = Pin::new(updates).poll_next(cx);
                if let Poll::Ready(Some(Ok(update))) = &update {
                    this.last = Some(update.status);
                }
                return update;
            }
            this.updates = None;
            let goodbye = not_serving();
            if this.last != Some(goodbye.status) {
                return Poll::Ready(Some(Ok(goodbye)));
            }
        }
        if let Some(ends) = &mut this.ends {
            ready!(Pin::new(ends).poll(cx));
            this.ends = None;
        }
        Poll::Ready(None)
    }
}

impl fmt::Debug for HealthWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HealthWatch")
            .field("last", &self.last)
            .finish_non_exhaustive()
    }
}
