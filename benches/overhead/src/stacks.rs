use crate::{bare::Bare, connection, ours, requests};
use bytes::Bytes;
use http::{
    HeaderValue, Request, Response,
    header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE},
};
use http_body::Body;
use http_body_util::Full;
use hyper::body::Incoming;
use std::{convert::Infallible, error::Error};
use tower::{Layer, Service};
use tower_http::metrics::InFlightRequestsLayer;

/// A service in a layer.
pub struct Stack {
    /// Names the stack in commands.
    pub name: &'static str,
    /// Names the stack in the table.
    pub title: &'static str,
    /// The size of the response future, in bytes.
    pub future: usize,
    /// The size of the response body, in bytes.
    pub body: usize,
    /// Answers every request with a refusal.
    pub refuses: bool,
    drive: Box<dyn Fn(Loop) -> Drive>,
}

/// Makes so many requests. Any thread may call it.
pub type Drive = Box<dyn FnMut(u64) + Send>;

/// How the requests are made.
#[derive(Clone, Copy, Debug)]
pub enum Loop {
    /// Without a server, with a clone of the service for each request.
    Cloned,
    /// Without a server, with one service for all requests.
    Kept,
    /// On one HTTP/1 connection of hyper. (A refusal ends it: not for a layer that refuses.)
    Connection,
    /// The same, and a drain's listener has accepted the connection.
    Listened,
}

/// Returns the stacks in the order of the table. The first has no layer, the second tower-http's.
pub fn stacks() -> Vec<Stack> {
    let (in_flight, _counter) = InFlightRequestsLayer::pair();
    let mut stacks = vec![
        Stack::new("bare", "no layer (its own figures)", Bare),
        Stack::new(
            "tower_http",
            "tower-http `InFlightRequestsLayer`",
            in_flight.layer(Bare),
        ),
    ];
    stacks.extend(ours::stacks());
    stacks.push(Stack::new("control", "control: no layer again", Bare));
    stacks
}

/// As many headers as a refusal has.
pub(crate) fn three_headers(mut response: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("13"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

impl Stack {
    pub(crate) fn new<S, B, C>(name: &'static str, title: &'static str, service: S) -> Self
    where
        S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = Infallible>,
        S: Service<Request<Incoming>, Response = Response<C>, Error = Infallible>,
        S: Clone + Send + 'static,
        B: Body,
        C: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + 'static,
    {
        Self {
            name,
            title,
            future: size_of::<<S as Service<Request<Full<Bytes>>>>::Future>(),
            body: size_of::<B>(),
            refuses: false,
            drive: Box::new(move |how| {
                let mut service = service.clone();
                match how {
                    Loop::Cloned => Box::new(move |n| requests::cloned(&service, n)),
                    Loop::Kept => Box::new(move |n| requests::kept(&mut service, n)),
                    Loop::Connection => Box::new(move |n| connection::serve(&service, n)),
                    Loop::Listened => Box::new(move |n| connection::serve_listened(&service, n)),
                }
            }),
        }
    }

    /// Says that the stack refuses every request.
    pub(crate) fn refusing(self) -> Self {
        Self {
            refuses: true,
            ..self
        }
    }

    /// Takes a clone of the service and drives it.
    pub fn drive(&self, how: Loop) -> Drive {
        (self.drive)(how)
    }
}
