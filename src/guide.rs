#![doc = include_str!("guide/index.md")]
#![cfg_attr(
    not(all(feature = "metrics", feature = "server", feature = "signal", feature = "tonic-health")),
    doc = include_str!("guide/links.md")
)]
// Pages, and nothing else: compiled when the docs are made, by nobody else (see `lib.rs`). Their programs
// are compiled by `tests/guide`, with the dependencies that they need. What a page links to and what a
// feature may lack, it links as [`path`] or [text][`path`], and `guide/links.md` has it: without all
// features, these links lead to docs.rs.

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
    troubleshooting: "troubleshooting",
}
