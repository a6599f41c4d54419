#![doc = include_str!("guide/index.md")]
#![cfg_attr(
    not(all(feature = "metrics", feature = "server", feature = "signal", feature = "tonic-health")),
    doc = include_str!("guide/links.md")
)]
// Only pages. They are compiled when the docs are made, and not otherwise (see `lib.rs`). `tests/guide`
// compiles their programs, with the dependencies that they need. A page links to an item that needs a
// feature as [`path`] or [text][`path`], and `guide/links.md` lists that path: without all features, the
// link leads to docs.rs.

#[cfg(feature = "net")]
#[allow(unused_imports, reason = "for the links of the pages")]
use crate::net::*;
#[allow(unused_imports, reason = "for the links of the pages")]
use crate::{guard::*, *};

macro_rules! pages {
    ($($name:ident: $page:literal,)+) => {
        $(
            #[doc = include_str!(concat!("guide/", $page, ".md"))]
            #[cfg_attr(
                not(all(
                    feature = "metrics",
                    feature = "server",
                    feature = "signal",
                    feature = "tonic-health"
                )),
                doc = include_str!("guide/links.md")
            )]
            pub mod $name {}
        )+
    };
}

pages! {
    axum: "axum",
    tonic: "tonic",
    hyper: "hyper",
    kubernetes: "kubernetes",
    systemd: "systemd",
    nginx: "nginx",
    haproxy: "haproxy",
    envoy: "envoy",
    supervisors: "supervisors",
    troubleshooting: "troubleshooting",
    moving_from: "moving_from",
    coming_from_go: "coming_from_go",
    measurements: "measurements",
}
