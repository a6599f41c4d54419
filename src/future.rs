//! Futures of responses, of phases, and what a server future ends with.

pub use crate::drain::{Reached, ServerOutput};
use crate::{
    body::ResponseBody,
    close::Closing,
    drain::{Key, Shared, Token},
    refusal::{Answer, AtDeadline, Refusal},
};
use http::{Request, Response, response::Parts};
use http_body::Body;
use pin_project_lite::pin_project;
use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

pin_project! {
    /// Completes with the response of [`Graceful`](crate::Graceful), or with the inner service's
    /// error.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F, B, A = AtDeadline> {
        #[pin]
        pub(crate) state: State<F, B, A>,
    }
}

pin_project! {
    #[project = StateProj]
    pub(crate) enum State<F, B, A> {
        Admitted {
            #[pin]
            inner: F,
            // Last, so that the inner future is dropped before the count ends.
            admitted: Admitted<A>,
        },
        Refused {
            answer: Option<Answer<B>>,
            closing: Closing,
        },
    }
}

/// Holds what the future of an admitted request needs. (Fields of their own in the variant would be
/// laid out around the inner future, and cost a copy of it.)
pub(crate) struct Admitted<A> {
    closing: Closing,
    /// Holds the place in the list of those that the drain wakes at the deadline.
    place: Option<Key>,
    /// Keeps the request counted. `None` once the body does.
    token: Option<Token<Shared>>,
    /// Makes the answer at the deadline.
    answer: A,
}

impl<A> Admitted<A> {
    #[inline]
    pub(crate) fn new(closing: Closing, token: Token<Shared>, answer: A) -> Self {
        Self {
            closing,
            place: None,
            token: Some(token),
            answer,
        }
    }

    /// Handles that the inner future is pending. Returns whether the request has to be answered.
    #[inline(never)]
    fn pending<B>(&mut self, cx: &Context<'_>) -> bool
    where
        A: Refusal<(), B>,
    {
        let token = self.token.as_ref().expect(POLLED);
        // A drain does not know of a request that it does not count.
        token.is_counted()
            && self.answer.answers()
            && token.answer_is_due(&mut self.place, cx.waker())
    }

    /// Ends the count now, and not with the future.
    #[cold]
    #[inline(never)]
    fn end(&mut self) {
        if let Some(token) = self.token.take() {
            if self.place.is_some() {
                token.stop_waiting(&mut self.place);
            }
        }
    }
}

/// Gives the place back, if the future is dropped while it waits.
impl<A> Drop for Admitted<A> {
    #[inline]
    fn drop(&mut self) {
        if self.token.is_some() {
            self.end();
        }
    }
}

impl<F, B, A> ResponseFuture<F, B, A> {
    #[inline]
    pub(crate) fn admitted(inner: F, admitted: Admitted<A>) -> Self {
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

impl<F, B, A> ResponseFuture<F, B, A>
where
    A: Refusal<(), B>,
{
    /// Drops the inner future, and returns the answer at the deadline.
    #[cold]
    #[inline(never)]
    pub(crate) fn answer(self: Pin<&mut Self>) -> Response<ResponseBody<B>> {
        let mut state = self.project().state;
        let StateProj::Admitted { admitted, .. } = state.as_mut().project() else {
            unreachable!("{POLLED}");
        };
        let closing = admitted.closing;
        let mut request = Request::new(());
        *request.version_mut() = closing.version();
        let answer = admitted.answer.refuse(&request);
        state.set(State::Refused {
            answer: None,
            closing,
        });
        answer.into_response(closing)
    }
}

impl<F, B, A, E> Future for ResponseFuture<F, B, A>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
    A: Refusal<(), B>,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.as_mut().project().state.project() {
            StateProj::Admitted { inner, admitted } => {
                let result = {
                    let token = admitted.token.as_ref();
                    let _current = token.and_then(Token::current);
                    inner.poll(cx)
                };
                let response = match result {
                    Poll::Ready(Ok(response)) => response,
                    Poll::Ready(Err(error)) => {
                        admitted.end();
                        return Poll::Ready(Err(error));
                    }
                    Poll::Pending => {
                        return match admitted.pending::<B>(cx) {
                            true => Poll::Ready(Ok(self.answer())),
                            false => Poll::Pending,
                        };
                    }
                };
                // By way of the parts: to change a header in a whole response costs a copy of it.
                let (mut head, inner) = response.into_parts();
                let token = admitted.token.take().expect(POLLED);
                if token.is_slow() | admitted.place.is_some() {
                    begin_response(&token, &mut admitted.place, admitted.closing, &mut head);
                }
                let body = ResponseBody::new(inner, token);
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
    token: &Token<Shared>,
    place: &mut Option<Key>,
    closing: Closing,
    head: &mut Parts,
) {
    if place.is_some() {
        token.stop_waiting(place);
    }
    if !token.is_slow() {
        return;
    }
    token.response_begun();
    if token.closes() {
        closing.put_on(head);
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

impl<F, B, A> fmt::Debug for ResponseFuture<F, B, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refused = matches!(self.state, State::Refused { .. });
        f.debug_struct("ResponseFuture")
            .field("refused", &refused)
            .finish_non_exhaustive()
    }
}
