//! Serves gRPC health checks, and answers NOT_SERVING once the drain has begun.

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
    /// Returns a gRPC [health
    /// service](https://github.com/grpc/grpc/blob/master/doc/health-checking.md) that follows the
    /// drain. Use it in place of the service that tonic-health returns with its reporter.
    ///
    /// It answers with the status that the reporter has set, until [`Phase::LameDuck`]. From then
    /// on each service that the reporter knows is NOT_SERVING, and so is the server as a whole
    /// (`""`). Later updates of the reporter change nothing. Each `Watch` sends the new status, and
    /// ends at [`Phase::Draining`], because the drain would wait for it.
    ///
    /// Exempt its `Check` from the layer, because probes call it until the end. A `Watch` that
    /// comes while draining is refused like any other request.
    ///
    /// ```no_run
    /// use tonic::transport::Server;
    /// use tower_graceful::Drain;
    ///
    /// # async fn f(signal: impl Future<Output = ()>) -> Result<(), Box<dyn std::error::Error>> {
    /// let drain = Drain::new();
    /// let (reporter, _) = tonic_health::server::health_reporter();
    /// // reporter.set_serving::<GreeterServer<MyGreeter>>().await;
    /// let check =
    ///     |request: &http::Request<_>| request.uri().path() == "/grpc.health.v1.Health/Check";
    /// let listener = drain.bind("[::]:50051").await?;
    /// let health = drain.grpc_health(reporter);
    /// // With other services: `.add_service(greeter).add_service(health)`, as tonic has it.
    /// let server = Server::builder()
    ///     .layer(drain.layer().exempt(check))
    ///     .serve_with_incoming_shutdown(health, listener, drain.shutdown_signal());
    /// drain.run(server, signal).await?; // `signal::terminate()`
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors of the service
    ///
    /// Both `Check` and `Watch` answer NOT_FOUND for a service that the reporter does not know. For
    /// a `Watch` the protocol has SERVICE_UNKNOWN, but tonic-health answers NOT_FOUND.
    ///
    /// # Panics
    ///
    /// The service's `Watch` panics when polled outside of a tokio runtime with its time driver,
    /// once the drain has begun.
    pub fn grpc_health(&self, reporter: HealthReporter) -> HealthServer<GrpcHealth> {
        HealthServer::new(GrpcHealth {
            inner: HealthService::from_health_reporter(reporter),
            drain: self.clone(),
        })
    }
}

/// Serves gRPC health checks and follows the drain; made by [`Drain::grpc_health`].
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
        // First, so that an unknown service is still NOT_FOUND.
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

/// Sends the status of a service to a watching client, and ends at [`Phase::Draining`]; from
/// [`GrpcHealth`].
pub struct HealthWatch {
    /// Yields the reporter's updates; `None` once the drain has begun.
    updates: Option<WatchStream>,
    /// Records the status that was sent last.
    last: Option<i32>,
    begun: Reached,
    /// Completes at [`Phase::Draining`]; `None` once it has.
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
            let last = not_serving();
            if this.last != Some(last.status) {
                return Poll::Ready(Some(Ok(last)));
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
