//! How fast other parsers go over lines of NDJSON, one core, file in memory: `parsers FILE...`.
//!
//! Each does the least that would do for us: it visits the members of each line's object, checks them, and adds up what
//! the values take. None copies values into columns, and none but jiter and sonic-rs could give a number's own text.
//! simd-json works in place, so it is given a copy of each line, as a reader with a buffer of its own would have.

use std::time::Instant;

fn main() {
    println!("| file | simd-json tape | sonic-rs lazy | jiter skip | serde_json raw |\n|---|---:|---:|---:|---:|");
    for path in std::env::args().skip(1) {
        let file = std::fs::read(&path).expect("a file");
        let rate = |parse: fn(&[u8]) -> usize| {
            let seconds = (0..3).map(|_| {
                let began = Instant::now();
                std::hint::black_box(parse(&file));
                began.elapsed().as_secs_f64()
            });
            file.len() as f64 / 1e6 / seconds.fold(f64::INFINITY, f64::min)
        };
        println!("| {path} | {:.0} | {:.0} | {:.0} | {:.0} |", rate(simd), rate(sonic), rate(jiter), rate(serde));
    }
}

fn lines(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut begin = 0;
    memchr::memchr_iter(b'\n', file).map(move |end| &file[std::mem::replace(&mut begin, end + 1)..end])
}

fn simd(file: &[u8]) -> usize {
    let (mut buffers, mut line, mut sum) = (simd_json::Buffers::new(1 << 16), Vec::new(), 0);
    for bytes in lines(file) {
        line.clear();
        line.extend_from_slice(bytes);
        let tape = simd_json::to_tape_with_buffers(&mut line, &mut buffers).expect("valid");
        sum += tape.0.len();
    }
    sum
}

fn sonic(file: &[u8]) -> usize {
    let mut sum = 0;
    for line in lines(file) {
        for member in sonic_rs::to_object_iter(line) {
            let (key, value) = member.expect("valid");
            sum += key.len() + value.as_raw_str().len();
        }
    }
    sum
}

fn jiter(file: &[u8]) -> usize {
    let mut sum = 0;
    for line in lines(file) {
        let mut parser = jiter::Jiter::new(line);
        let mut key = parser.next_object().expect("valid").map(str::len);
        while let Some(length) = key {
            let begin = parser.current_index();
            parser.next_skip().expect("valid");
            sum += length + parser.current_index() - begin;
            key = parser.next_key().expect("valid").map(str::len);
        }
    }
    sum
}

fn serde(file: &[u8]) -> usize {
    let mut sum = 0;
    for line in lines(file) {
        let members: std::collections::HashMap<std::borrow::Cow<'_, str>, &serde_json::value::RawValue> =
            serde_json::from_slice(line).expect("valid");
        sum += members.values().map(|value| value.get().len()).sum::<usize>();
    }
    sum
}
