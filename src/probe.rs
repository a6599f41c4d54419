//! Answers the probes of balancers and kubelets, and shows people what a drain waits for.
//!
//! Each type here is a tower service that never fails and is always ready. Serve them on a port of
//! their own, without the drain's listener: such a server answers until the process ends.
//!
//! ```no_run
//! use axum::Router;
//! use tokio::net::TcpListener;
//! use tower_graceful::Drain;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! let drain = Drain::new();
//! let admin: Router = Router::new()
//!     .route_service("/readyz", drain.readiness())
//!     .route_service("/livez", drain.liveness())
//!     .route_service("/drainz", drain.status()); // curl localhost:9000/drainz
//! let listener = TcpListener::bind("127.0.0.1:9000").await?;
//! tokio::spawn(async move { axum::serve(listener, admin).await });
//! # Ok(())
//! # }
//! ```

use crate::drain::{Drain, Phase};
use bytes::Bytes;
#[cfg(feature = "serde")]
use http::header::ACCEPT;
use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, VARY},
};
use http_body::{Body, Frame, SizeHint};
use std::{
    convert::Infallible,
    future::{Ready, ready},
    pin::Pin,
    task::{Context, Poll},
};
use tower_service::Service;

impl Drain {
    /// Returns a service for `/readyz`: 200 in [`Phase::Serving`], and 503 afterwards.
    ///
    /// [`probe`](crate::probe) has an example with all three services. See [`Readiness`] for where
    /// to put it.
    pub fn readiness(&self) -> Readiness {
        Readiness {
            drain: self.clone(),
        }
    }

    /// Returns a service for `/livez`: 200 in every phase. See [`Liveness`].
    pub fn liveness(&self) -> Liveness {
        Liveness
    }

    /// Returns a service that answers with the [report](Self::report), as text or JSON. See
    /// [`Status`].
    pub fn status(&self) -> Status {
        Status {
            drain: self.clone(),
        }
    }
}

/// Answers `/readyz`; from [`Drain::readiness`].
///
/// It answers 200 `ready` in [`Phase::Serving`], and 503 `draining` from [`Phase::LameDuck`] on.
///
/// Put it where no [`GracefulLayer`](crate::GracefulLayer) counts or refuses the probe: outside of
/// the layer, or [exempt](crate::GracefulLayer::exempt). After the lame duck the listener is
/// closed, and a refused connection says the same as a 503.
///
/// ```
/// use axum::{Router, routing::get};
/// use tower_graceful::Drain;
///
/// let drain = Drain::new();
/// let app: Router = Router::new()
///     .route("/", get("hello"))
///     .layer(drain.layer())
///     .route_service("/readyz", drain.readiness())
///     .route_service("/livez", drain.liveness());
/// ```
#[derive(Clone, Debug)]
pub struct Readiness {
    drain: Drain,
}

/// Answers `/livez` with 200 `alive` in every phase; from [`Drain::liveness`].
///
/// A drain changes [readiness](Readiness) and not liveness: a server that drains is alive, and a
/// restart would lose its requests. Kubernetes stops asking once a pod is being deleted; other
/// supervisors go on. Put it where readiness is.
///
/// ```
/// use axum::{Router, routing::get};
/// use tower_graceful::Drain;
///
/// let drain = Drain::new();
/// let app: Router = Router::new()
///     .route("/", get("hello"))
///     .layer(drain.layer())
///     .route_service("/livez", drain.liveness());
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Liveness;

/// Answers with the drain's [report](Drain::report); from [`Drain::status`].
///
/// The answer is text, a line and a table. With the feature `serde` it is JSON for a client that
/// [accepts](https://www.rfc-editor.org/rfc/rfc9110#section-12.5.1) `application/json`. It lists at
/// most a thousand blockers, the likely ones first, and says how many it leaves out.
///
/// The report names peers and, if [requests are listed](crate::GracefulLayer::report_requests),
/// paths. So do not serve it to the public. Put it on a port of its own, as the example of
/// [`probe`](crate::probe) does: that server stays while the other one drains.
///
/// ```
/// use axum::Router;
/// use tower_graceful::Drain;
///
/// let drain = Drain::new();
/// let admin: Router = Router::new().route_service("/drainz", drain.status());
/// ```
#[derive(Clone, Debug)]
pub struct Status {
    drain: Drain,
}

impl Readiness {
    fn answer(&self, _: &HeaderMap) -> Response<ProbeBody> {
        match self.drain.phase() {
            Phase::Serving => text(StatusCode::OK, "ready\n"),
            _ => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        }
    }
}

impl Liveness {
    fn answer(&self, _: &HeaderMap) -> Response<ProbeBody> {
        text(StatusCode::OK, "alive\n")
    }
}

impl Status {
    fn answer(&self, _headers: &HeaderMap) -> Response<ProbeBody> {
        const MOST: usize = 1000;
        let mut report = self.drain.report();
        report.limit(MOST);
        #[cfg(feature = "serde")]
        if accepts_json(_headers) {
            // Never errs: every key is a string, and no part of a report fails to serialise.
            if let Ok(json) = serde_json::to_vec(&report) {
                return answer(StatusCode::OK, "application/json", json.into());
            }
        }
        text(StatusCode::OK, format!("{report:#}\n"))
    }
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<ProbeBody> {
    answer(status, "text/plain; charset=utf-8", text.into())
}

fn answer(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<ProbeBody> {
    let mut response = Response::new(ProbeBody(Some(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    // A probe has to see the present state.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(VARY, HeaderValue::from_static("accept"));
    response
}

/// Returns whether the client asks for JSON by name, and does not prefer text. A `*/*`, which
/// `curl` sends, gets text.
#[cfg(feature = "serde")]
fn accepts_json(headers: &HeaderMap) -> bool {
    let (mut json, mut text) = (0.0, 0.0);
    let values = headers.get_all(ACCEPT).iter();
    for range in values.flat_map(|value| value.to_str().unwrap_or_default().split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let quality = parts.find_map(|part| part.strip_prefix("q=")?.parse().ok());
        let quality: f32 = quality.unwrap_or(1.0);
        if name.eq_ignore_ascii_case("application/json") {
            json = quality;
        } else if name.eq_ignore_ascii_case("text/plain") {
            text = quality;
        }
    }
    json > 0.0 && json >= text
}

macro_rules! probe {
    ($probe:ident) => {
        impl<B> Service<Request<B>> for $probe {
            type Response = Response<ProbeBody>;
            type Error = Infallible;
            type Future = Ready<Result<Self::Response, Infallible>>;

            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
                Poll::Ready(Ok(()))
            }

            fn call(&mut self, request: Request<B>) -> Self::Future {
                ready(Ok(self.answer(request.headers())))
            }
        }
    };
}

probe!(Readiness);
probe!(Liveness);
probe!(Status);

/// Holds the body of a response of [`Readiness`], [`Liveness`] or [`Status`].
#[derive(Debug)]
pub struct ProbeBody(Option<Bytes>);

impl Body for ProbeBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|text| Ok(Frame::data(text))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |text| text.len() as u64))
    }
}
