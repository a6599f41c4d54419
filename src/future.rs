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

/// Holds what the future of an admitted request needs.
pub(crate) struct Admitted {
    pub(crate) closing: Closing,
    /// Keeps the request counted; `None` where nothing counts it, or something else does.
    pub(crate) in_flight: Option<InFlight>,
}

impl<F, B> ResponseFuture<F, B> {
    #[inline]
    pub(crate) fn admitted(inner: F, admitted: Admitted) -> Self {
        Self {
            state: State::Admitted { inner, admitted },
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
                let result = {
                    let in_flight = admitted.in_flight.as_ref();
                    let _current = in_flight.and_then(InFlight::current);
                    inner.poll(cx)
                };
                match ready!(result) {
                    Ok(response) => {
                        // By way of the parts: to change a header in a whole response costs a copy of it.
                        let (mut head, inner) = response.into_parts();
                        let in_flight = admitted.in_flight.take();
                        if in_flight.as_ref().is_none_or(InFlight::is_slow) {
                            let Parts {
                                status,
                                version,
                                headers,
                                ..
                            } = &mut head;
                            begin_response(
                                in_flight.as_ref(),
                                admitted.closing,
                                *status,
                                version,
                                headers,
                            );
                        }
                        let body = ResponseBody::new(inner, in_flight);
                        Poll::Ready(Ok(Response::from_parts(head, body)))
                    }
                    Err(error) => {
                        // An error ends the count now, not with the future.
                        admitted.in_flight = None;
                        Poll::Ready(Err(error))
                    }
                }
            }
            StateProj::Refused { answer, closing } => refused(answer, *closing),
        }
    }
}

#[cold]
#[inline(never)]
fn begin_response(
    in_flight: Option<&InFlight>,
    closing: Closing,
    status: StatusCode,
    version: &mut Version,
    headers: &mut HeaderMap,
) {
    if let Some(in_flight) = in_flight {
        in_flight.sent(0);
    }
    if in_flight.is_none_or(InFlight::is_draining) {
        closing.put_on(status, version, headers);
    }
}

#[cold]
#[inline(never)]
fn refused<B, E>(
    answer: &mut Option<Answer<B>>,
    closing: Closing,
) -> Poll<Result<Response<ResponseBody<B>>, E>> {
    let answer = answer.take().expect("polled after it was ready");
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
