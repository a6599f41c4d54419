//! Clients that write the next request when they have an answer, and retry nothing.

use crate::GUARD;
use std::{
    error::Error,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver},
    },
    thread::{self, JoinHandle},
};

/// What a client makes anew.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Per {
    /// A connection for as many requests as it takes.
    Connection,
    /// A connection for each.
    Request,
}

pub struct Client {
    address: SocketAddr,
    per: Per,
    connection: Option<BufReader<TcpStream>>,
}

impl Client {
    pub fn new(address: SocketAddr, per: Per) -> Self {
        Self {
            address,
            per,
            connection: None,
        }
    }

    /// Which process has answered.
    pub fn get(&mut self, path: &str) -> Result<u32, Box<dyn Error>> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let stream = TcpStream::connect_timeout(&self.address, GUARD)?;
                stream.set_read_timeout(Some(GUARD))?;
                BufReader::new(stream)
            }
        };
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n");
        connection.get_mut().write_all(request.as_bytes())?;

        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if connection.read_line(&mut head)? == 0 {
                return Err(format!("a connection that ends after {head:?}").into());
            }
        }
        let head = head.to_ascii_lowercase();
        let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name));
        if !head.starts_with("http/1.1 200 ") {
            return Err(head.into());
        }
        let length = header("content-length: ").ok_or("no length")?.parse()?;
        let mut body = vec![0; length];
        connection.read_exact(&mut body)?;

        if self.per == Per::Connection && header("connection: ") != Some("close") {
            self.connection = Some(connection);
        }
        Ok(String::from_utf8(body)?.parse()?)
    }
}

pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<usize>>,
    /// The process that answers a client from here on, or that a request of it was lost.
    news: Receiver<(usize, Result<u32, String>)>,
    answered_by: Vec<Option<u32>>,
}

impl Load {
    /// So many of each.
    pub fn start(address: SocketAddr, clients: &[(Per, &'static str, usize)]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (tell, news) = mpsc::channel();
        let all = clients
            .iter()
            .flat_map(|&(per, path, count)| std::iter::repeat_n((per, path), count));
        let clients: Vec<_> = all
            .enumerate()
            .map(|(index, (per, path))| {
                let (tell, stop) = (tell.clone(), stop.clone());
                thread::spawn(move || {
                    let mut client = Client::new(address, per);
                    let mut last = None;
                    let mut answered = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let news = client
                            .get(path)
                            .map_err(|error| format!("a {per:?} each, {path}: {error}"));
                        let by = news.clone().ok();
                        if last != by || by.is_none() {
                            last = by;
                            let _ = tell.send((index, news));
                        }
                        if by.is_none() {
                            break;
                        }
                        answered += 1;
                    }
                    answered
                })
            })
            .collect();
        Self {
            stop,
            answered_by: vec![None; clients.len()],
            clients,
            news,
        }
    }

    /// Waits until so many clients are.
    pub fn is_answered_by(&mut self, process: u32, clients: usize) {
        let here = |by: &&Option<u32>| **by == Some(process);
        while self.answered_by.iter().filter(here).count() < clients {
            let (client, news) = self.news.recv_timeout(GUARD).expect("answers");
            match news {
                Ok(by) => self.answered_by[client] = Some(by),
                Err(lost) => panic!("client {client}, {lost}"),
            }
        }
    }

    /// How many requests were answered: all.
    pub fn finish(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let answered = self.clients.into_iter().map(JoinHandle::join);
        let answered = answered.map(|count| count.expect("no panic")).sum();
        for (client, news) in self.news {
            if let Err(lost) = news {
                panic!("client {client}, {lost}");
            }
        }
        answered
    }
}
