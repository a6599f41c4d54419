//! Counts and refuses the calls of services that are not HTTP; see [`Drain::call_layer`].
//!
//! A worker that takes jobs from a queue. At the signal it takes no more, and the drain waits for
//! those that it has begun. At the deadline they are reported as left, and run on until the process
//! ends:
//!
#![cfg_attr(feature = "signal", doc = "```no_run")]
#![cfg_attr(not(feature = "signal"), doc = "```ignore")]
//! use std::{convert::Infallible, pin::pin};
//! use tokio::sync::mpsc;
//! use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
//! use tower_graceful::{Drain, Phase, signal};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let stop = signal::terminate(); // first: before it, SIGTERM ends the process
//! let drain = Drain::new();
//! let mut service = ServiceBuilder::new()
//!     .layer(drain.call_layer())
//!     .service(service_fn(async |job: String| Ok::<_, Infallible>(println!("{job}"))));
//!
//! let (_jobs, mut queue) = mpsc::channel::<String>(8);
//! let stopping = drain.reached(Phase::LameDuck); // a worker needs no lame duck
//! let worker = async move {
//!     let mut stopping = pin!(stopping);
//!     loop {
//!         let job = tokio::select! {
//!             biased;
//!             () = &mut stopping => None,
//!             job = queue.recv() => job,
//!         };
//!         let Some(job) = job else { return };
//!         let Ok(ready) = service.ready().await else { return };
//!         let call = ready.call(job); // counted from here on
//!         tokio::spawn(async move {
//!             if let Err(error) = call.await {
//!                 // If it `is::<Refused>()`, the job has not begun: put it back into the queue.
//!                 eprintln!("{error}");
//!             }
//!         });
//!     }
//! };
//! println!("{}", drain.run(worker, stop).await?);
//! # Ok(())
//! # }
//! ```

use crate::{
    capacity::Capacity,
    drain::{CounterHandle, Drain, Fact, Refused, Shared, Token, uncounted},
    refusal::{Exempt, NoExemptions},
};
use pin_project_lite::pin_project;
use std::{
    error::Error,
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tower_layer::Layer;
use tower_service::Service;

type BoxError = Box<dyn Error + Send + Sync>;

impl Drain {
    /// Returns a layer that counts the calls of any tower service, and refuses new ones once
    /// draining.
    ///
    /// A refused call ends with the error [`Refused`]. For HTTP services there is
    /// [`layer`](Self::layer), which answers with a response.
    ///
    /// ```
    /// use tower::{ServiceBuilder, ServiceExt, service_fn};
    /// use tower_graceful::{Drain, Refused};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// let drain = Drain::new();
    /// let double = ServiceBuilder::new()
    ///     .layer(drain.call_layer())
    ///     .service(service_fn(async |n: u32| Ok::<_, std::io::Error>(2 * n)));
    ///
    /// assert_eq!(double.clone().oneshot(21).await?, 42);
    /// drain.begin();
    /// match double.oneshot(21).await {
    ///     Err(error) if error.is::<Refused>() => println!("{error}"),
    ///     _ => unreachable!("the drain has begun"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn call_layer(&self) -> GracefulLayer {
        GracefulLayer::new(self)
    }
}

/// Counts the calls of any tower service and refuses new ones once draining; from
/// [`Drain::call_layer`].
///
/// A call is counted until its future ends or is dropped. If the drain has a listener, too, calls
/// are refused a moment later than [`Draining`](crate::Phase::Draining): requests that arrived in
/// time may still make them. What [`GracefulLayer`](crate::GracefulLayer#where-to-put-it) says of
/// `poll_ready`, of its place among other layers and of capacity holds here, too.
///
/// ```
/// use tower::ServiceBuilder;
/// use tower_graceful::{Drain, call::GracefulLayer};
///
/// let drain = Drain::new();
/// let one = ServiceBuilder::new().layer(GracefulLayer::new(&drain));
/// let same = ServiceBuilder::new().layer(drain.call_layer());
/// ```
#[derive(Clone)]
#[must_use = "a layer does nothing until it is given a service"]
pub struct GracefulLayer<E = NoExemptions> {
    handle: CounterHandle<Shared>,
    exempt: E,
}

impl GracefulLayer {
    /// Returns the same layer as [`Drain::call_layer`].
    pub fn new(drain: &Drain) -> Self {
        Self {
            handle: drain.layer_handle(Fact::CallLayer),
            exempt: NoExemptions,
        }
    }
}

impl<E> GracefulLayer<E> {
    /// Exempts the calls for which `exempt` returns true: they are neither refused nor counted.
    ///
    /// ```
    /// use tower_graceful::Drain;
    ///
    /// let drain = Drain::new();
    /// let layer = drain.call_layer().exempt(|command: &String| command == "PING");
    /// ```
    pub fn exempt<T>(self, exempt: T) -> GracefulLayer<T> {
        GracefulLayer {
            handle: self.handle,
            exempt,
        }
    }
}

impl<S, E: Clone> Layer<S> for GracefulLayer<E> {
    type Service = Graceful<S, E>;

    fn layer(&self, inner: S) -> Self::Service {
        Graceful {
            inner,
            layer: self.clone(),
            capacity: Capacity::default(),
        }
    }
}

impl<E> fmt::Debug for GracefulLayer<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GracefulLayer")
            .field("phase", &self.handle.stage().phase())
            .finish()
    }
}

/// Counts the calls of a service, and refuses new ones once draining; from [`GracefulLayer`].
///
/// ```
/// use tower::service_fn;
/// use tower_graceful::{Drain, call::Graceful};
///
/// let drain = Drain::new();
/// let double = service_fn(async |n: u32| Ok::<_, std::io::Error>(2 * n));
/// let double = Graceful::new(double, &drain);
/// ```
///
/// # Errors
///
/// The error is a box. It holds the error of the service, or [`Refused`].
pub struct Graceful<S, E = NoExemptions> {
    inner: S,
    layer: GracefulLayer<E>,
    capacity: Capacity,
}

impl<S> Graceful<S> {
    /// Wraps a service as [`drain.call_layer()`](Drain::call_layer) does.
    pub fn new(inner: S, drain: &Drain) -> Self {
        GracefulLayer::new(drain).layer(inner)
    }
}

impl<S, E> Graceful<S, E> {
    /// Returns a reference to the inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns a mutable reference to the inner service.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Returns the inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, E, Req> Service<Req> for Graceful<S, E>
where
    S: Service<Req, Error: Into<BoxError>>,
    E: Exempt<Req>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = CallFuture<S::Future>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let ready = self.inner.poll_ready(cx).map_err(Into::into);
        self.capacity.poll(ready, &self.layer.handle, cx)
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        // Counted before the inner service is called, so that a panic there ends the count.
        let token = self.admit(&request);
        let inner = match token {
            Some(_) => Some(self.inner.call(request)),
            None => {
                self.layer.handle.count_refused();
                None
            }
        };
        CallFuture { inner, token }
    }
}

impl<S, E> Graceful<S, E> {
    #[inline]
    fn admit<Req>(&self, request: &Req) -> Option<Token<Shared>>
    where
        E: Exempt<Req>,
    {
        if !self.capacity.is_there() {
            return None;
        }
        if self.layer.exempt.is_exempt(request) {
            return Some(uncounted());
        }
        self.layer.handle.admit(|| false)
    }
}

/// Clones by hand: the clone of the inner service has not been asked whether it is ready.
impl<S: Clone, E: Clone> Clone for Graceful<S, E> {
    #[inline]
    fn clone(&self) -> Self {
        self.layer.layer(self.inner.clone())
    }
}

impl<S: fmt::Debug, E> fmt::Debug for Graceful<S, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Graceful")
            .field("inner", &self.inner)
            .field("phase", &self.layer.handle.stage().phase())
            .finish()
    }
}

pin_project! {
    /// Completes with the response of [`Graceful`], or with its error.
    ///
    /// Dropping it drops the call and ends its count.
    #[must_use = "futures do nothing unless polled"]
    pub struct CallFuture<F> {
        // `None` if the call was refused.
        #[pin]
        inner: Option<F>,
        // Last, so that the inner future is dropped before the count ends. `None` once it has ended.
        token: Option<Token<Shared>>,
    }
}

impl<F, T, E> Future for CallFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(inner) = this.inner.as_pin_mut() else {
            return Poll::Ready(Err(Refused.into()));
        };
        let result = {
            let _current = this.token.as_ref().and_then(Token::current);
            ready!(inner.poll(cx))
        };
        *this.token = None;
        Poll::Ready(result.map_err(Into::into))
    }
}

impl<F> fmt::Debug for CallFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallFuture")
            .field("refused", &self.inner.is_none())
            .finish_non_exhaustive()
    }
}
