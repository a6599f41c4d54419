use overhead::Stack;
#[inline(never)]
fn measured(s: &impl Stack) {
    for _ in 0..1000 {
        s.request()
    }
}
fn main() {
    match std::env::args().nth(1).unwrap().as_str() {
        "bare" => measured(&overhead::bare()),
        "in_flight" => measured(&overhead::in_flight()),
        "limit" => measured(&overhead::limit()),
        "tracker" => measured(&overhead::tracker()),
        "serving" => measured(&overhead::serving()),
        "refusing" => measured(&overhead::refusing()),
        _ => {}
    }
}
