use super::*;
use crate::drain::ConnectionState::{Handling, Idle, Opaque, Reading, Silent, Streaming, Upgraded};

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

/// Returns the state after these reads (`>`) and writes (`<`), whatever the size of the reads.
fn after(steps: &[(char, &[u8])]) -> ConnectionState {
    let whole = run(steps, usize::MAX);
    for size in 1..7 {
        assert_eq!(
            run(steps, size).activity(),
            whole.activity(),
            "reads of {size}"
        );
    }
    whole.activity()
}

fn run(steps: &[(char, &[u8])], size: usize) -> Sniffer {
    let mut sniffer = Sniffer::new();
    for (direction, bytes) in steps {
        match direction {
            '>' => bytes
                .chunks(size.min(bytes.len()))
                .for_each(|part| sniffer.read(part)),
            // A server writes a response's head at once.
            _ => drop(sniffer.wrote(bytes, false)),
        }
    }
    sniffer
}

#[test]
fn a_request_is_followed_from_its_first_byte_to_its_response() {
    assert_eq!(Sniffer::new().activity(), Silent);
    assert_eq!(after(&[('>', &GET[..1])]), Reading);
    assert_eq!(after(&[('>', &GET[..GET.len() - 1])]), Reading);
    assert_eq!(after(&[('>', GET)]), Handling);
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(after(&[('>', GET), ('<', answer)]), Streaming);
    let again = [('>', GET), ('<', &answer[..]), ('>', b"POST")];
    assert_eq!(after(&again), Reading);
}

#[test]
fn a_line_break_before_a_request_and_bare_ones_in_it_are_tolerated() {
    assert_eq!(after(&[('>', b"\r\nGET / HTTP/1.1\n\n")]), Handling);
    assert_eq!(after(&[('>', b"\r\n")]), Reading);
    // After a body, a line break does not begin the next request.
    let steps = [
        (
            '>',
            &b"POST / HTTP/1.1\r\ncontent-length: 1\r\n\r\nx\r\n"[..],
        ),
        ('<', b"HTTP/1.1 200 OK\r\n\r\n"),
    ];
    assert_eq!(after(&steps), Streaming);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let upgrade = [GET, b"GET /ws HTTP/1.1\r\nupgrade: x\r\n\r\n"].concat();
    let ok = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let switching = b"HTTP/1.1 101 Switching Protocols\r\n\r\n";
    let first = [('>', &upgrade[..]), ('<', &ok[..])];
    assert_eq!(after(&first), Handling);
    let both = [first[0], first[1], ('<', &switching[..])];
    assert_eq!(after(&both), Upgraded);
    // The response to the first request does not open the tunnel.
    let connect = [GET, b"CONNECT a:1 HTTP/1.1\r\n\r\n"].concat();
    assert_eq!(after(&[('>', &connect), ('<', ok)]), Handling);
}

#[test]
fn a_body_is_no_head() {
    let head = b"POST / HTTP/1.1\r\nCONTENT-Length: 8\r\n\r\n";
    let body = b"GET / HT";
    for (sent, mid) in [(&body[..0], true), (&body[..7], true), (&body[..], false)] {
        let steps = [('>', &head[..]), ('>', sent)];
        let steps = &steps[..1 + usize::from(!sent.is_empty())];
        assert_eq!(after(steps), Handling);
        assert_eq!(run(steps, usize::MAX).is_mid_request(), mid);
    }
    // The byte after the body begins a head.
    let steps = [
        ('>', &head[..]),
        ('>', body),
        ('<', b"HTTP/1.1 200 OK\r\n\r\n"),
        ('>', b"G"),
    ];
    assert_eq!(after(&steps), Reading);
}

#[test]
fn a_chunked_body_ends_with_its_last_chunk_and_its_trailers() {
    let head = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";
    let body = b"3;x=y\r\nabc\r\nA\r\n0\r\n\r\n56789\r\n0\r\nt: u\r\n\r\n";
    for sent in 1..body.len() {
        let steps = [('>', &head[..]), ('>', &body[..sent])];
        assert!(run(&steps, usize::MAX).is_mid_request(), "{sent}");
    }
    for size in 1..9 {
        let steps = [('>', &head[..]), ('>', &body[..])];
        assert!(!run(&steps, size).is_mid_request(), "reads of {size}");
    }
}

#[test]
fn trailers_do_not_end_with_a_bare_line_break() {
    let head = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n";
    for (trailers, mid) in [
        (&b"\n"[..], true),
        (b"\n\r\n", true),
        (b"t: u\r\n\n", true),
        (b"t: u\n\r\n", true),
        (b"t: u\n\r\n\r\n", false),
        (b"\r\n", false),
    ] {
        for size in 1..9 {
            let steps = [('>', &head[..]), ('>', trailers)];
            assert_eq!(run(&steps, size).is_mid_request(), mid, "{trailers:?}");
        }
    }
}

#[test]
fn an_interim_response_is_none() {
    let head = b"POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n";
    let steps = [('>', &head[..]), ('<', b"HTTP/1.1 100 Continue\r\n\r\n")];
    assert_eq!(after(&steps), Handling);
    let both = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
    assert_eq!(after(&[('>', head), ('<', both)]), Streaming);
}

#[test]
fn a_response_that_is_written_in_parts_is_seen() {
    let interim = b"HTTP/1.1 100 Continue\r\n\r\n";
    let all = [interim, &b"HTTP/1.1 200 OK\r\n\r\n"[..], interim].concat();
    let responses = [&all[..], b"HTTP/1.1 204 No Content\r\na: b\r\n\r\n"].concat();
    for size in 1..responses.len() {
        let mut sniffer = run(&[('>', GET), ('>', GET)], usize::MAX);
        let mut seen = Vec::new();
        for part in responses.chunks(size) {
            sniffer.wrote(part, false);
            seen.push(sniffer.activity());
        }
        assert_eq!(seen.pop(), Some(Streaming), "writes of {size}");
        // The last response begins at its status code.
        let begins = (all.len() + 12).div_ceil(size);
        assert!(
            seen.iter().take(begins - 1).all(|state| *state == Handling),
            "writes of {size}"
        );
    }
    // A body may end with what a response begins with.
    let ends = [
        ('>', &[GET, GET].concat()[..]),
        ('<', b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"),
        ('<', b"HT"),
        ('<', b"HTTP/1.1 200 OK\r\n\r\n"),
    ];
    assert_eq!(after(&ends), Streaming);
}

#[test]
fn a_head_that_is_written_at_once_is_not_searched_for_its_end() {
    let mut sniffer = run(&[('>', GET)], usize::MAX);
    sniffer.wrote(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", true);
    assert_eq!(sniffer.activity(), Streaming);
    sniffer.read(&GET.repeat(2));
    sniffer.wrote(b"HTTP/1.1 204 No Content\r\n\r\n", true);
    assert_eq!(sniffer.activity(), Handling);
    // More responses may follow in the same buffer.
    sniffer.read(GET);
    sniffer.wrote(&b"HTTP/1.1 204 No Content\r\n\r\n".repeat(2), true);
    assert_eq!(sniffer.activity(), Streaming);
    // The rest of the head comes later, together with the next response.
    let mut sniffer = run(&[('>', GET)], usize::MAX);
    let both = b"HTTP/1.1 204 No Content\r\n\r\n".repeat(2);
    sniffer.wrote(&both[..20], false);
    sniffer.read(GET);
    sniffer.wrote(&both[20..], true);
    assert_eq!(sniffer.activity(), Streaming);
}

#[test]
fn responses_that_are_written_together_are_seen() {
    let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
    let steps = [
        ('>', &GET.repeat(3)[..]),
        ('<', &answer.repeat(2)),
        ('<', answer),
    ];
    assert_eq!(after(&steps[..2]), Handling);
    assert_eq!(after(&steps), Streaming);
    // The rest of a response whose head was still being written when the next request came.
    let both = answer.repeat(2);
    let steps = [
        ('>', GET),
        ('<', &both[..20]),
        ('>', GET),
        ('<', &both[20..]),
    ];
    assert_eq!(after(&steps), Streaming);
    let rest = &answer[20..];
    let steps = [
        ('>', GET),
        ('<', &answer[..20]),
        ('<', rest),
        ('>', GET),
        ('<', answer),
    ];
    assert_eq!(after(&steps), Streaming);
}

#[test]
fn what_leaves_http_behind_is_upgraded() {
    let steps = [
        ('>', &b"GET / HTTP/1.1\r\nupgrade: x\r\n\r\n"[..]),
        ('<', b"HTTP/1.1 101 Switching Protocols\r\n\r\n"),
        ('>', b"\x81\x05hello"),
    ];
    assert_eq!(after(&steps), Upgraded);
    let steps = [
        ('>', &b"CONNECT a:1 HTTP/1.1\r\n\r\n"[..]),
        ('<', b"HTTP/1.1 200 OK\r\n\r\n"),
    ];
    assert_eq!(after(&steps), Upgraded);
    let steps = [
        ('>', &b"CONNECT a:1 HTTP/1.1\r\n\r\n"[..]),
        ('<', b"HTTP/1.1 403 Forbidden\r\n\r\n"),
    ];
    assert_eq!(after(&steps), Streaming);
}

#[test]
fn what_is_not_http_is_opaque() {
    assert_eq!(after(&[('>', b"\x16\x03\x01")]), Opaque);
    assert_eq!(after(&[('>', b"PRX")]), Reading);
    // It looks like a request until its first line ends.
    let proxy = b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n\x16\x03\x01";
    assert_eq!(after(&[('>', &proxy[..40])]), Reading);
    assert_eq!(after(&[('>', proxy)]), Opaque);
    assert_eq!(after(&[('>', b"\r\n\r\n\0\r\nQUIT\n")]), Opaque);
    assert_eq!(after(&[('>', b"PING\r\n")]), Opaque);
    let long = [b"GET /", &[b'x'; 100][..], b" HTTP/1.1\r\n\r\n"].concat();
    assert_eq!(after(&[('>', &long)]), Handling);
}

#[test]
fn an_invalid_request_after_others_does_not_hide_that_those_are_owed() {
    let both = [GET, b"NOT A REQUEST\r\n\r\n", GET].concat();
    let answer = b"HTTP/1.1 200 OK\r\n\r\n";
    assert_eq!(after(&[('>', &both)]), Handling);
    // The server has yet to reject it.
    let answered = [('>', &both[..]), ('<', answer)];
    assert_eq!(after(&answered), Reading);
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream];
    frame.extend(payload);
    frame
}

#[test]
fn http2_counts_its_streams() {
    assert_eq!(after(&[('>', &PREFACE[..23])]), Reading);
    assert_eq!(after(&[('>', PREFACE)]), Idle);
    let headers = frame(1, 0x5, 1, b"abc");
    let data = frame(0, 0, 1, b"0123456789");
    let end = frame(0, 1, 1, b"");
    let start = [('>', PREFACE), ('>', &headers[..])];
    assert_eq!(after(&start), Handling);
    let more = [start[0], start[1], ('<', &data[..])];
    assert_eq!(after(&more), Handling);
    let all = [start[0], start[1], ('<', &data[..]), ('<', &end[..])];
    assert_eq!(after(&all), Idle);
    // A part of a head opens no stream: a part of its frame, or a frame without END_HEADERS.
    let half = frame(1, 0x1, 3, b"abc");
    let rest = frame(9, 0x4, 3, b"de");
    assert_eq!(after(&[start[0], ('>', &half[..10])]), Reading);
    assert_eq!(after(&[start[0], ('>', &half)]), Reading);
    let both = [start[0], ('>', &half[..]), ('>', &rest[..])];
    assert_eq!(after(&both), Handling);
    // Trailers of the client open no stream, and a reset ends one.
    let trailers = frame(1, 0x5, 1, b"abc");
    let again = [start[0], start[1], ('<', &end[..]), ('>', &trailers[..])];
    assert_eq!(after(&again), Idle);
    let reset = frame(3, 0, 1, &[0; 4]);
    assert_eq!(after(&[start[0], start[1], ('>', &reset[..])]), Idle);
}

#[test]
fn http2_a_head_that_is_rejected_before_its_end_is_not_waited_for() {
    let half = frame(1, 0x1, 3, b"abc");
    let reset = |stream| frame(3, 0, stream, &[0; 4]);
    let start = [('>', PREFACE), ('>', &half[..])];
    let rejected = [start[0], start[1], ('<', &reset(3))];
    assert_eq!(after(&rejected), Idle);
    let other = [start[0], start[1], ('<', &reset(1))];
    assert_eq!(after(&other), Reading);
}

/// SETTINGS_ENABLE_CONNECT_PROTOCOL after another one.
const ENABLES: &[u8] = &[0, 3, 0, 0, 0, 200, 0, 8, 0, 0, 0, 1];
/// `:protocol: websocket`, with a plain name and with one in Huffman code.
const PROTOCOL: &[u8] = b"\x40\x09:protocol\x09websocket";
const PROTOCOL_HUFFMAN: &[u8] = b"\x40\x87\xb9\x5d\x87\x49\xc8\x7a\x3f\x09websocket";
/// `a: b`, which is inserted into the table.
const OTHER: &[u8] = b"\x40\x01a\x01b";

/// Returns the state after these frames of both sides, whatever the size of the reads.
fn tunnels(enables: bool, frames: &[(char, Vec<u8>)]) -> ConnectionState {
    let settings = frame(4, 0, 0, if enables { ENABLES } else { &ENABLES[..6] });
    let mut steps = vec![('>', PREFACE), ('<', &settings[..])];
    steps.extend(frames.iter().map(|(side, frame)| (*side, &frame[..])));
    let state = after(&steps);
    for size in 7..30 {
        assert_eq!(run(&steps, size).activity(), state, "reads of {size}");
    }
    // Writes may be of any size, too.
    let mut sniffer = Sniffer::new();
    for (side, bytes) in &steps {
        for byte in bytes.chunks(1) {
            match side {
                '>' => sniffer.read(byte),
                _ => drop(sniffer.wrote(byte, false)),
            }
        }
    }
    assert_eq!(sniffer.activity(), state);
    state
}

fn connect(stream: u8, block: &[u8]) -> (char, Vec<u8>) {
    ('>', frame(1, 0x4, stream, block))
}

fn answers(stream: u8) -> (char, Vec<u8>) {
    ('<', frame(1, 0x4, stream, b"\x88"))
}

#[test]
fn i69_an_extended_connect_is_upgraded_by_its_answer() {
    for block in [PROTOCOL, PROTOCOL_HUFFMAN] {
        let block = [b"\x02\x07CONNECT", OTHER, block, OTHER].concat();
        let asked = [connect(1, &block)];
        assert_eq!(tunnels(true, &asked), Handling);
        let answered = [connect(1, &block), answers(1)];
        assert_eq!(tunnels(true, &answered), Upgraded);
        assert_eq!(tunnels(false, &answered), Handling);
        let data = frame(0, 0, 1, b"hello");
        let talks = [
            connect(1, &block),
            answers(1),
            ('>', data.clone()),
            ('<', data),
        ];
        assert_eq!(tunnels(true, &talks), Upgraded);
        let ended = [connect(1, &block), answers(1), ('<', frame(0, 1, 1, b""))];
        assert_eq!(tunnels(true, &ended), Idle);
        let reset = [
            connect(1, &block),
            answers(1),
            ('>', frame(3, 0, 1, &[0; 4])),
        ];
        assert_eq!(tunnels(true, &reset), Idle);
    }
}

#[test]
fn i69_beside_another_stream_it_is_handling() {
    let get = ('>', frame(1, 0x5, 3, b"\x82\x86"));
    let both = [connect(1, PROTOCOL), answers(1), get];
    assert_eq!(tunnels(true, &both), Handling);
    let ended = [&both[..], &[('<', frame(1, 0x5, 3, b"\x88"))]].concat();
    assert_eq!(tunnels(true, &ended), Upgraded);
}

#[test]
fn i69_a_later_reference_to_the_table_is_one_too() {
    // Trailers and requests that end at once insert, too.
    let inserts = ('>', frame(1, 0x5, 3, &OTHER.repeat(2)));
    let answered = ('<', frame(1, 0x5, 3, b"\x88"));
    let first = [connect(1, PROTOCOL), answers(1), inserts, answered];
    // The entry before the last two: the whole of it, and its name with another value.
    for (block, expected) in [
        (&b"\xc0"[..], Upgraded),
        (b"\x0f\x31\x09something", Upgraded),
        (b"\x7f\x01\x09something", Upgraded),
        (b"\x7f\x01\x09something\xbe", Upgraded),
        (b"\xbf", Handling),
        (b"\xc1", Handling),
    ] {
        let steps = [&first[..], &[connect(5, block), answers(5)]].concat();
        assert_eq!(tunnels(true, &steps), expected, "{block:?}");
    }
}

#[test]
fn i69_a_block_may_be_padded_and_in_parts() {
    let padded = [&[3, 0, 0, 0, 0, 16][..], &PROTOCOL[..9], b"\x40\x09:"].concat();
    let steps = [
        ('>', frame(1, 0x28, 1, &padded)),
        ('>', frame(9, 0, 1, &PROTOCOL[9..15])),
        ('>', frame(9, 0x4, 1, &PROTOCOL[15..])),
        answers(1),
    ];
    assert_eq!(tunnels(true, &steps), Upgraded);
}

#[test]
fn i69_an_invalid_block_opens_no_tunnel() {
    for block in [
        &b"\x40\x09:protocoX\x09websocket"[..],
        b"\x40\x08:protoco\x09websocket",
        // A value, and not a name.
        b"\x40\x01a\x09:protocol",
        b"\x40\x00\x01a",
        b"\xff\xff\xff\xff\xff\xff",
        // The block ends within a field.
        b"\x40\x09:protocol\x09web",
        b"",
    ] {
        let steps = [connect(1, block), answers(1)];
        assert_eq!(tunnels(true, &steps), Handling, "{block:?}");
    }
    // After an invalid block, nothing is found.
    let steps = [connect(1, b"\x40\x00\x01a"), ('<', frame(3, 0, 1, &[0; 4]))];
    let steps = [&steps[..], &[connect(3, PROTOCOL), answers(3)]].concat();
    assert_eq!(tunnels(true, &steps), Handling);
}

#[test]
fn i69_a_block_that_is_too_long_opens_no_tunnel() {
    let part = ('>', frame(9, 0, 1, &OTHER.repeat(50)));
    for (parts, expected) in [(200, Upgraded), (300, Handling)] {
        let mut steps = vec![('>', frame(1, 0, 1, PROTOCOL))];
        steps.resize(1 + parts, part.clone());
        steps.push(('>', frame(9, 0x4, 1, b"")));
        steps.push(answers(1));
        assert_eq!(tunnels(true, &steps), expected);
        // It does not matter to the next one.
        steps.push(('>', frame(3, 0, 1, &[0; 4])));
        steps.extend([connect(3, PROTOCOL), answers(3)]);
        assert_eq!(tunnels(true, &steps), Upgraded);
    }
}

/// The server rejects a head before its end, and the client begins another one.
#[test]
fn i69_a_block_that_does_not_end_is_not_a_part_of_the_next_one() {
    let rejects = ('<', frame(3, 0, 1, &[0; 4]));
    let with_priority = [&[0, 0, 0, 0, 16], PROTOCOL].concat();
    let steps = [
        ('>', frame(1, 0, 1, OTHER)),
        rejects,
        ('>', frame(1, 0x24, 3, &with_priority)),
        answers(3),
    ];
    assert_eq!(tunnels(true, &steps), Upgraded);
}

#[test]
fn i69_a_block_that_has_begun_before_the_settings_is_not_read() {
    let first = frame(1, 0x4, 1, PROTOCOL);
    let settings = frame(4, 0, 0, ENABLES);
    let (second, answer) = (connect(3, PROTOCOL).1, answers(3).1);
    let end = frame(3, 0, 1, &[0; 4]);
    for cut in 10..first.len() {
        let steps = [
            ('>', PREFACE),
            ('>', &first[..cut]),
            ('<', &settings),
            ('>', &first[cut..]),
            ('>', &end),
            ('>', &second),
            ('<', &answer),
        ];
        assert_eq!(after(&steps), Upgraded, "{cut}");
    }
}
