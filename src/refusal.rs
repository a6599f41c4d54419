//! The responses to refused requests, and the requests that are exempt.

use crate::{
    body::ResponseBody,
    close::{CLOSE, Closing},
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode,
    header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER},
};
use std::sync::LazyLock;

/// Makes the response to a refused request; for
/// [`GracefulLayer::refuse_with`](crate::GracefulLayer::refuse_with) and `Serve::refuse_with`.
///
/// Makes the answer at the deadline, too; for
/// [`GracefulLayer::answer_at_deadline`](crate::GracefulLayer::answer_at_deadline) and
/// `Serve::answer_at_deadline`. The request has no body then: `ReqBody` is `()`.
///
/// The default is [`Unavailable`], and [`AtDeadline`] at the deadline. A closure from `&Request<_>`
/// to the inner service's response implements this trait, too.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot refuse requests of this service",
    note = "a closure takes `&http::Request<{ReqBody}>` and returns a response of the inner service's \
            kind, `http::Response<{ResBody}>`"
)]
pub trait Refusal<ReqBody, ResBody> {
    /// Returns the response: `response.into()`. If the request is HTTP/1,
    /// `Connection: close` is added.
    fn refuse(&self, request: &Request<ReqBody>) -> Answer<ResBody>;

    /// Returns whether requests are answered at the deadline.
    #[doc(hidden)]
    #[inline]
    fn answers(&self) -> bool {
        true
    }
}

/// Holds the response of a [`Refusal`]; made from a response of the inner service's kind by [`From`].
#[derive(Debug)]
pub struct Answer<B> {
    kind: Kind<B>,
}

/// Names a default response, or holds another one. It is small, because it is a variant of each
/// response future. The default responses are built when the future is polled.
#[derive(Debug)]
enum Kind<B> {
    Http { retry_after: Option<u32> },
    Grpc,
    Made(Box<Response<ResponseBody<B>>>),
}

impl<B> From<Response<ResponseBody<B>>> for Answer<B> {
    fn from(response: Response<ResponseBody<B>>) -> Self {
        Self {
            kind: Kind::Made(Box::new(response)),
        }
    }
}

impl<B> Answer<B> {
    pub(crate) fn into_response(self, closing: Closing) -> Response<ResponseBody<B>> {
        let response = match self.kind {
            Kind::Http { retry_after } => {
                return unavailable(retry_after, closing).map(|()| ResponseBody::default());
            }
            Kind::Grpc => grpc().map(|()| ResponseBody::default()),
            Kind::Made(response) => *response,
        };
        closing.put_on_response(response)
    }
}

impl<F, ReqBody, ResBody> Refusal<ReqBody, ResBody> for F
where
    F: Fn(&Request<ReqBody>) -> Response<ResBody>,
{
    fn refuse(&self, request: &Request<ReqBody>) -> Answer<ResBody> {
        self(request).map(ResponseBody::from).into()
    }
}

/// Refuses in the protocol of the request; the default [`Refusal`]:
///
/// * HTTP: [503 Service Unavailable](https://www.rfc-editor.org/rfc/rfc9110#section-15.6.4) with
///   `Retry-After` and `Content-Length: 0`.
/// * gRPC (`content-type: application/grpc…`): [Trailers-Only], status 200 with `grpc-status: 14`
///   (UNAVAILABLE) and a `grpc-message`.
///
/// Its body is empty. A client retries a 503 only if it is configured to.
///
/// ```
/// use tower_graceful::{Drain, refusal::Unavailable};
///
/// let drain = Drain::new();
/// let layer = drain.layer().refuse_with(Unavailable::new().retry_after(5));
/// ```
///
/// [Trailers-Only]: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#responses
#[derive(Clone, Copy, Debug)]
#[must_use = "a refusal does nothing until a layer is told to `refuse_with` it"]
pub struct Unavailable {
    // Small: it is copied with the service for each request.
    retry_after: u32,
}

impl Unavailable {
    /// Returns the default: `Retry-After: 1`.
    pub const fn new() -> Self {
        Self { retry_after: 1 }
    }

    /// Sets the seconds after which a client may try again (`Retry-After`, HTTP only). Default: 1.
    pub const fn retry_after(self, seconds: u32) -> Self {
        Self {
            retry_after: seconds,
        }
    }
}

// Headers are built once and cloned: half the instructions of building them.

/// Returns a 503 without a body.
pub(crate) fn unavailable(retry_after: Option<u32>, closing: Closing) -> Response<()> {
    static OPEN: LazyLock<HeaderMap> = LazyLock::new(|| {
        HeaderMap::from_iter([
            (RETRY_AFTER, HeaderValue::from_static("1")),
            (CONTENT_LENGTH, HeaderValue::from_static("0")),
        ])
    });
    static CLOSING: LazyLock<HeaderMap> = LazyLock::new(|| {
        let mut headers = OPEN.clone();
        headers.insert(CONNECTION, CLOSE);
        headers
    });

    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    closing.set_version(response.version_mut());
    let headers = response.headers_mut();
    *headers = match closing.fits(StatusCode::SERVICE_UNAVAILABLE) {
        true => CLOSING.clone(),
        false => OPEN.clone(),
    };
    match retry_after {
        Some(1) => {}
        Some(seconds) => {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        None => {
            headers.remove(RETRY_AFTER);
        }
    }
    response
}

/// Returns a [Trailers-Only] response: its headers are trailers.
///
/// [Trailers-Only]: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#responses
fn grpc() -> Response<()> {
    static HEADERS: LazyLock<HeaderMap> = LazyLock::new(|| {
        HeaderMap::from_iter([
            (CONTENT_TYPE, HeaderValue::from_static("application/grpc")),
            (
                HeaderName::from_static("grpc-status"),
                HeaderValue::from_static("14"),
            ),
            (
                HeaderName::from_static("grpc-message"),
                // ASCII without `%`: percent-encoding leaves it as it is.
                HeaderValue::from_static("the server is shutting down"),
            ),
        ])
    });

    let mut response = Response::new(());
    *response.headers_mut() = HEADERS.clone();
    response
}

impl Default for Unavailable {
    fn default() -> Self {
        Self::new()
    }
}

impl<ReqBody, ResBody> Refusal<ReqBody, ResBody> for Unavailable {
    fn refuse(&self, request: &Request<ReqBody>) -> Answer<ResBody> {
        let content_type = request.headers().get(CONTENT_TYPE);
        let kind = match content_type.map(|value| (value, value.as_bytes())) {
            // gRPC-Web clients require the content type of their request.
            Some((value, bytes)) if bytes.starts_with(b"application/grpc-web") => {
                let mut response = grpc().map(|()| ResponseBody::default());
                response.headers_mut().insert(CONTENT_TYPE, value.clone());
                Kind::Made(Box::new(response))
            }
            Some((_, bytes)) if bytes.starts_with(b"application/grpc") => Kind::Grpc,
            _ => Kind::Http {
                retry_after: Some(self.retry_after),
            },
        };
        Answer { kind }
    }
}

/// Answers a request whose response has not begun when the drain is forced; the default of
/// [`GracefulLayer::answer_at_deadline`](crate::GracefulLayer::answer_at_deadline).
///
/// It is a 503 without `Retry-After`: nobody knows whether the request was executed. gRPC clients
/// take it for UNAVAILABLE ([status
/// codes](https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md)): the request
/// has gone to its handler by then, and nothing says any more that it was gRPC.
#[derive(Clone, Copy, Debug, Default)]
pub struct AtDeadline;

impl<ReqBody, ResBody> Refusal<ReqBody, ResBody> for AtDeadline {
    fn refuse(&self, _: &Request<ReqBody>) -> Answer<ResBody> {
        Answer {
            kind: Kind::Http { retry_after: None },
        }
    }
}

/// Switches the answer at the deadline off: a request whose response has not begun is cut; for
/// [`GracefulLayer::answer_at_deadline`](crate::GracefulLayer::answer_at_deadline).
///
/// Given to `refuse_with`, it refuses with a plain 503.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoAnswer;

impl<ReqBody, ResBody> Refusal<ReqBody, ResBody> for NoAnswer {
    fn refuse(&self, request: &Request<ReqBody>) -> Answer<ResBody> {
        AtDeadline.refuse(request)
    }

    #[inline]
    fn answers(&self) -> bool {
        false
    }
}

/// Decides which requests are neither refused nor counted; for
/// [`GracefulLayer::exempt`](crate::GracefulLayer::exempt) and `Serve::exempt`.
///
/// A closure from `&Request` to `bool` implements this trait.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot say which requests are exempt",
    note = "a closure takes `&{Request}` and returns a `bool`"
)]
pub trait Exempt<Request> {
    /// Returns true for a request that passes in each phase.
    fn is_exempt(&self, request: &Request) -> bool;
}

impl<F, Request> Exempt<Request> for F
where
    F: Fn(&Request) -> bool,
{
    fn is_exempt(&self, request: &Request) -> bool {
        self(request)
    }
}

/// Exempts no request: the default [`Exempt`].
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct NoExemptions;

impl<Request> Exempt<Request> for NoExemptions {
    fn is_exempt(&self, _: &Request) -> bool {
        false
    }
}
