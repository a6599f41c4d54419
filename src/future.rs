//! Futures of responses, of phases, and what a server future ends with.

pub use crate::drain::{Reached, ServerOutput};
use crate::{
    body::ResponseBody,
    drain::{InFlight, Label, Refused},
    refusal::{Answer, Closing},
};
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;
use std::{
    error::Error,
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

pin_project! {
    /// The response future of [`Graceful`](crate::Graceful) over HTTP.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F, B, N = ()> {
        #[pin]
        pub(crate) state: HttpState<F, B, N>,
    }
}

pin_project! {
    #[project = HttpProj]
    pub(crate) enum HttpState<F, B, N> {
        Admitted {
            #[pin]
            inner: F,
            closing: Closing,
            // Last, so that the inner future is dropped before its request is said to have ended.
            in_flight: Option<InFlight<N>>,
        },
        Refused {
            answer: Option<Answer<B>>,
            closing: Closing,
        },
    }
}

#[cfg(feature = "server")]
impl<F, B, N> ResponseFuture<F, B, N> {
    #[inline]
    pub(crate) fn admitted(inner: F, closing: Closing, in_flight: Option<InFlight<N>>) -> Self {
        Self {
            state: HttpState::Admitted {
                inner,
                closing,
                in_flight,
            },
        }
    }

    pub(crate) fn refused(answer: Answer<B>, closing: Closing) -> Self {
        Self {
            state: HttpState::Refused {
                answer: Some(answer),
                closing,
            },
        }
    }
}

impl<F, B, E, N> Future for ResponseFuture<F, B, N>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
    N: Label,
{
    type Output = Result<Response<ResponseBody<B, N>>, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            HttpProj::Admitted {
                inner,
                closing,
                in_flight,
            } => {
                let result = {
                    let _current = in_flight.as_ref().and_then(InFlight::current);
                    ready!(inner.poll(cx))
                };
                // Taken before anything else: an error ends the count now, not with the future.
                let in_flight = in_flight.take();
                // By way of the parts: to change a header in a whole response costs a copy of it.
                let (mut head, inner) = result?.into_parts();
                if let Some(in_flight) = in_flight.as_ref().filter(|_| N::NAMES) {
                    in_flight.sent(0);
                }
                if in_flight.as_ref().is_none_or(InFlight::is_draining) {
                    closing.put_on(&mut head);
                }
                let body = ResponseBody::new(inner, in_flight);
                Poll::Ready(Ok(Response::from_parts(head, body)))
            }
            HttpProj::Refused { answer, closing } => refused(answer, *closing),
        }
    }
}

// Returns all that `poll` returns: else both kinds of response are put together aside, and copied.
#[cold]
#[inline(never)]
fn refused<B, N: Label, E>(
    answer: &mut Option<Answer<B>>,
    closing: Closing,
) -> Poll<Result<Response<ResponseBody<B, N>>, E>> {
    let answer = answer.take().expect("polled after it was ready");
    Poll::Ready(Ok(answer.into_response(closing)))
}

impl<F, B, N> fmt::Debug for ResponseFuture<F, B, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refused = matches!(self.state, HttpState::Refused { .. });
        f.debug_struct("ResponseFuture")
            .field("refused", &refused)
            .finish_non_exhaustive()
    }
}

pin_project! {
    /// The response future of [`Graceful`](crate::Graceful) over [`Calls`](crate::call::Calls).
    #[must_use = "futures do nothing unless polled"]
    pub struct CallFuture<F> {
        #[pin]
        state: CallState<F>,
    }
}

pin_project! {
    #[project = CallProj]
    enum CallState<F> {
        Admitted {
            #[pin]
            inner: F,
            // Last, so that the inner future is dropped before its call is said to have ended.
            in_flight: Option<InFlight>,
        },
        Refused,
    }
}

impl<F> CallFuture<F> {
    #[inline]
    pub(crate) fn admitted(inner: F, in_flight: Option<InFlight>) -> Self {
        Self {
            state: CallState::Admitted { inner, in_flight },
        }
    }

    pub(crate) fn refused() -> Self {
        Self {
            state: CallState::Refused,
        }
    }
}

impl<F, T, E> Future for CallFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    type Output = Result<T, Box<dyn Error + Send + Sync>>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            CallProj::Admitted { inner, in_flight } => {
                let result = {
                    let _current = in_flight.as_ref().and_then(InFlight::current);
                    ready!(inner.poll(cx))
                };
                *in_flight = None;
                Poll::Ready(result.map_err(Into::into))
            }
            CallProj::Refused => Poll::Ready(Err(Refused.into())),
        }
    }
}

impl<F> fmt::Debug for CallFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refused = matches!(self.state, CallState::Refused);
        f.debug_struct("CallFuture")
            .field("refused", &refused)
            .finish_non_exhaustive()
    }
}
