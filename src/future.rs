//! Futures of responses, of phases, and what a server future ends with.

pub use crate::drain::{Reached, ServerOutput};
use crate::{body::ResponseBody, close::Closing, drain::InFlight, refusal::Answer};
use http::{HeaderMap, Response, StatusCode, Version, response::Parts};
use http_body::Body;
use pin_project_lite::pin_project;
use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

pin_project! {
    /// Completes with the response of [`Graceful`](crate::Graceful), or with the inner service's
    /// error.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F, B> {
        #[pin]
        pub(crate) state: State<F, B>,
    }
}

pin_project! {
    #[project = StateProj]
    pub(crate) enum State<F, B> {
        Admitted {
            #[pin]
            inner: F,
            // Last, so that the inner future is dropped before the count ends.
            admitted: Admitted,
        },
        Refused {
            answer: Option<Answer<B>>,
            closing: Closing,
        },
    }
}

/// Holds what the future of an admitted request needs. (Fields of their own in the variant would be
/// laid out around the inner future, and cost a copy of it.)
pub(crate) struct Admitted {
    closing: Closing,
    /// Keeps the request counted. `None` once the body does.
    in_flight: Option<InFlight>,
}

impl Admitted {
    #[inline]
    pub(crate) fn new(closing: Closing, in_flight: InFlight) -> Self {
        Self {
            closing,
            in_flight: Some(in_flight),
        }
    }
}

impl<F, B> ResponseFuture<F, B> {
    #[cfg(feature = "server")]
    #[inline]
    pub(crate) fn admitted(inner: F, closing: Closing, in_flight: InFlight) -> Self {
        Self {
            state: State::Admitted {
                inner,
                admitted: Admitted::new(closing, in_flight),
            },
        }
    }

    pub(crate) fn refused(answer: Answer<B>, closing: Closing) -> Self {
        Self {
            state: State::Refused {
                answer: Some(answer),
                closing,
            },
        }
    }
}

impl<F, B, E> Future for ResponseFuture<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Admitted { inner, admitted } => {
                let Admitted { closing, in_flight } = admitted;
                let result = {
                    let _current = in_flight.as_ref().and_then(InFlight::current);
                    inner.poll(cx)
                };
                let response = match ready!(result) {
                    Ok(response) => response,
                    Err(error) => {
                        // An error ends the count now, not with the future.
                        *in_flight = None;
                        return Poll::Ready(Err(error));
                    }
                };
                // By way of the parts: to change a header in a whole response costs a copy of it.
                let (mut head, inner) = response.into_parts();
                let in_flight = in_flight.take().expect(POLLED);
                if in_flight.is_slow() {
                    let Parts {
                        status,
                        version,
                        headers,
                        ..
                    } = &mut head;
                    begin_response(&in_flight, *closing, *status, version, headers);
                }
                let body = ResponseBody::new(inner, in_flight);
                Poll::Ready(Ok(Response::from_parts(head, body)))
            }
            StateProj::Refused { answer, closing } => refused(answer, *closing),
        }
    }
}

const POLLED: &str = "polled after it was ready";

#[cold]
#[inline(never)]
fn begin_response(
    in_flight: &InFlight,
    closing: Closing,
    status: StatusCode,
    version: &mut Version,
    headers: &mut HeaderMap,
) {
    in_flight.response_begun();
    if in_flight.closes() {
        closing.put_on(status, version, headers);
    }
}

#[cold]
#[inline(never)]
fn refused<B, E>(
    answer: &mut Option<Answer<B>>,
    closing: Closing,
) -> Poll<Result<Response<ResponseBody<B>>, E>> {
    let answer = answer.take().expect(POLLED);
    Poll::Ready(Ok(answer.into_response(closing)))
}

impl<F, B> fmt::Debug for ResponseFuture<F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refused = matches!(self.state, State::Refused { .. });
        f.debug_struct("ResponseFuture")
            .field("refused", &refused)
            .finish_non_exhaustive()
    }
}
