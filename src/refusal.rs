//! What a request is told that comes too late, and which requests are spared.

use crate::body::ResponseBody;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER},
};
use std::sync::LazyLock;

/// Makes the response to a request that is refused.
///
/// [`Unavailable`] is the default one; a closure from `&Request<_>` to the inner service's
/// response is one, too. For
/// [`GracefulLayer::refuse_with`](crate::GracefulLayer::refuse_with).
pub trait Refusal<ReqBody, ResBody> {
    /// The response: `response.into()`. `Connection: close` is added to it afterwards if the
    /// request is HTTP/1.
    fn refuse(&self, request: &Request<ReqBody>) -> Answer<ResBody>;
}

/// What a [`Refusal`] says: a response of the inner service's kind, by [`From`].
#[derive(Debug)]
pub struct Answer<B> {
    kind: Kind<B>,
}

/// Small, as it lies in the future of each request until it is asked for: those of our own are
/// made only then.
#[derive(Debug)]
enum Kind<B> {
    Http { retry_after: u32 },
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

/// The default [`Refusal`], in the protocol of the request:
///
/// * HTTP: [503 Service Unavailable](https://www.rfc-editor.org/rfc/rfc9110#section-15.6.4) with
///   `Retry-After` and `Content-Length: 0`.
/// * gRPC (`content-type: application/grpc…`): [Trailers-Only], status 200 with `grpc-status: 14`
///   (UNAVAILABLE) and a `grpc-message`.
///
/// No client retries a 503 unless it is told to; that is the client's choice to make, and this
/// answer leaves it all it needs.
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
    // Small: it is copied with the service, for each request.
    retry_after: u32,
}

impl Unavailable {
    /// `Retry-After: 1`.
    pub const fn new() -> Self {
        Self { retry_after: 1 }
    }

    /// In how many seconds a client may try again (`Retry-After`, for HTTP only). Default: 1.
    pub const fn retry_after(self, seconds: u32) -> Self {
        Self {
            retry_after: seconds,
        }
    }
}

// Headers are made once and cloned, which is half the work of making them.

/// Returns a 503 without a body.
pub(crate) fn unavailable(retry_after: u32, closing: Closing) -> Response<()> {
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
    closing.date(response.version_mut());
    let headers = response.headers_mut();
    *headers = match closing.fits(StatusCode::SERVICE_UNAVAILABLE) {
        true => CLOSING.clone(),
        false => OPEN.clone(),
    };
    if retry_after != 1 {
        headers.insert(RETRY_AFTER, retry_after.into());
    }
    response
}

/// [Trailers-Only]: headers that are trailers.
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
                // Plain ASCII without `%`: its percent-encoding is itself.
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
            // gRPC-Web has content types of its own, which its clients insist on.
            Some((value, bytes)) if bytes.starts_with(b"application/grpc-web") => {
                let mut response = grpc().map(|()| ResponseBody::default());
                response.headers_mut().insert(CONTENT_TYPE, value.clone());
                Kind::Made(Box::new(response))
            }
            Some((_, bytes)) if bytes.starts_with(b"application/grpc") => Kind::Grpc,
            _ => Kind::Http {
                retry_after: self.retry_after,
            },
        };
        Answer { kind }
    }
}

/// Says which requests are neither refused nor counted.
///
/// A closure from `&Request` to `bool` is one. For
/// [`GracefulLayer::exempt`](crate::GracefulLayer::exempt).
pub trait Exempt<Request> {
    /// True for a request that goes through, whatever the phase.
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

/// The default [`Exempt`]: no request is.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct NoExemptions;

impl<Request> Exempt<Request> for NoExemptions {
    fn is_exempt(&self, _: &Request) -> bool {
        false
    }
}

/// How a response may say that its connection ends with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    /// Not by a header: HTTP/2 and later
    /// ([RFC 9113 8.2.2](https://www.rfc-editor.org/rfc/rfc9113#section-8.2.2)).
    Never,
    /// By `Connection: close`
    /// ([RFC 9112 9.6](https://www.rfc-editor.org/rfc/rfc9112#section-9.6)).
    Header,
    /// Likewise, in HTTP/1.0: hyper takes a response of a later version for one that stays, and
    /// says so beside the `close`.
    HeaderOf10,
    /// Likewise, unless it succeeds: what comes then is a tunnel
    /// ([RFC 9110 9.3.6](https://www.rfc-editor.org/rfc/rfc9110#section-9.3.6)).
    HeaderUnlessConnected,
}

impl Closing {
    #[inline]
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        if request.version() > Version::HTTP_11 {
            Self::Never
        } else if *request.method() == Method::CONNECT {
            Self::HeaderUnlessConnected
        } else if request.version() == Version::HTTP_11 {
            Self::Header
        } else {
            Self::HeaderOf10
        }
    }

    /// Puts it on a response, if it fits there and is not there already.
    #[cold]
    pub(crate) fn put_on(self, status: StatusCode, version: &mut Version, headers: &mut HeaderMap) {
        if self.fits(status) {
            close(headers);
            self.date(version);
        }
    }

    /// Puts it on a whole response.
    pub(crate) fn put_on_response<B>(self, response: Response<B>) -> Response<B> {
        let (mut head, body) = response.into_parts();
        self.put_on(head.status, &mut head.version, &mut head.headers);
        Response::from_parts(head, body)
    }

    fn date(self, version: &mut Version) {
        if self == Self::HeaderOf10 {
            *version = Version::HTTP_10;
        }
    }

    /// Whether a response with that status, if it is the last one, has to say so.
    fn fits(self, status: StatusCode) -> bool {
        match self {
            Self::Never => false,
            Self::Header => !status.is_informational(),
            Self::HeaderOf10 => true,
            Self::HeaderUnlessConnected => !status.is_informational() && !status.is_success(),
        }
    }
}

const CLOSE: HeaderValue = HeaderValue::from_static("close");

fn close(headers: &mut HeaderMap) {
    if !headers.contains_key(CONNECTION) {
        headers.insert(CONNECTION, CLOSE);
        return;
    }
    // A handler has set it. Its other options stay (`upgrade` belongs to a 426), but for the one
    // that contradicts; a value that is no text is not for us to judge.
    let old: Vec<HeaderValue> = headers.get_all(CONNECTION).iter().cloned().collect();
    let options = |value: &HeaderValue| -> Vec<String> {
        let text = value.to_str().unwrap_or_default();
        text.split(',')
            .map(|option| option.trim().to_owned())
            .filter(|option| !option.is_empty())
            .collect()
    };
    let kept: Vec<String> = old
        .iter()
        .flat_map(options)
        .filter(|option| {
            !option.eq_ignore_ascii_case("keep-alive") && !option.eq_ignore_ascii_case("close")
        })
        .chain(["close".to_owned()])
        .collect();
    let value = HeaderValue::try_from(kept.join(", ")).unwrap_or(CLOSE);
    headers.insert(CONNECTION, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(old: &[&'static str]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for value in old {
            headers.append(CONNECTION, HeaderValue::from_static(value));
        }
        close(&mut headers);
        headers
            .get_all(CONNECTION)
            .iter()
            .map(|value| value.to_str().expect("ours are text").to_owned())
            .collect()
    }

    #[test]
    fn a13_close_is_said_once_and_does_not_contradict() {
        assert_eq!(closed(&[]), ["close"]);
        assert_eq!(closed(&["close"]), ["close"]);
        assert_eq!(closed(&["Close"]), ["close"]);
        assert_eq!(closed(&["keep-alive"]), ["close"]);
        assert_eq!(closed(&["Keep-Alive, upgrade"]), ["upgrade, close"]);
        assert_eq!(closed(&["upgrade", "close"]), ["upgrade, close"]);
        assert_eq!(closed(&["", ","]), ["close"]);
    }
}
