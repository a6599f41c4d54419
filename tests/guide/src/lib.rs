//! The programs of the guide (`src/guide`), compiled with the dependencies that a reader of them has: those
//! of this package. `cargo test -p guide-tests --doc`

macro_rules! pages {
    ($($name:ident: $page:literal,)+) => {
        $(
            #[cfg(doctest)]
            #[doc = include_str!(concat!("../../../src/guide/", $page, ".md"))]
            struct $name;
        )+
    };
}

pages! {
    Index: "index",
    Axum: "axum",
    Tonic: "tonic",
    Hyper: "hyper",
    Kubernetes: "kubernetes",
    Systemd: "systemd",
    Nginx: "nginx",
    Haproxy: "haproxy",
    Envoy: "envoy",
    Supervisors: "supervisors",
    Troubleshooting: "troubleshooting",
    MovingFrom: "moving_from",
    ComingFromGo: "coming_from_go",
    Measurements: "measurements",
}
