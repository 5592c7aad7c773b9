//! Seeded `Navigation` records, Confluent-framed, of about 303 bytes each.
//!
//! The encoder is written by hand for the one schema in `navigation.avsc`; a test decodes what it
//! writes with arrow-avro. The same seed gives the same bytes everywhere.

use std::io::Write;

/// The schema that every record names in its frame.
pub const SCHEMA: &str = include_str!("../navigation.avsc");
pub const SCHEMA_ID: u32 = 1;
pub const SEED: u64 = 42;
/// Site ids are below this; one in fifty has no row in the sites table.
pub const SITES: u32 = 10_000;
const USERS: u64 = 200_000;
/// 2026-01-01T00:00:00Z.
const EPOCH_MS: i64 = 1_767_225_600_000;

const SECTIONS: [&str; 8] =
    ["news", "sports", "culture", "science", "travel", "business", "local", "weather"];
const WORDS: [&str; 16] = [
    "election",
    "harbour",
    "orchestra",
    "glacier",
    "transfer",
    "budget",
    "recipe",
    "festival",
    "vaccine",
    "railway",
    "startup",
    "drought",
    "museum",
    "cyclist",
    "satellite",
    "interview",
];
const AGENTS: [&str; 6] = [
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/148.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_3 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148",
    "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Mozilla/5.0 (Linux; Android 15; Pixel 9) AppleWebKit/537.36 Chrome/148.0.0.0 Mobile",
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 Version/19.0 Safari",
];
const REFERRERS: [&str; 4] = [
    "https://www.google.com/",
    "https://news.example.org/front",
    "https://t.co/a8sK2",
    "https://www.example.com/start?from=push",
];
const COUNTRIES: [&str; 8] = ["FR", "DE", "US", "GB", "ES", "IT", "PL", "NL"];
const TAGS: [&str; 8] =
    ["video", "premium", "live", "amp", "gallery", "longread", "sponsored", "opinion"];
const SEGMENTS: [&str; 5] = ["press", "retail", "public", "sport", "finance"];

pub struct Generator {
    random: Random,
    row: u64,
}

/// One record: its key (the uid), its time, and its framed bytes.
#[derive(Debug, Default)]
pub struct Event {
    pub uid: Vec<u8>,
    pub seen_at: i64,
    pub frame: Vec<u8>,
}

/// Framed records in one buffer.
#[derive(Debug, Default)]
pub struct Frames {
    buffer: Vec<u8>,
    ends: Vec<usize>,
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Generator {
    pub fn new(seed: u64) -> Self {
        Self { random: Random(seed), row: 0 }
    }

    /// Writes the next record over the one in `event`.
    pub fn next_into(&mut self, event: &mut Event) {
        let random = &mut self.random;
        event.uid.clear();
        write!(event.uid, "{}", Uid(random.below(USERS))).expect("a Vec takes all");
        event.seen_at = EPOCH_MS + (self.row / 200) as i64 - random.below(5_000) as i64;
        self.row += 1;

        let out = &mut event.frame;
        out.clear();
        out.push(0);
        out.extend_from_slice(&SCHEMA_ID.to_be_bytes());
        put_bytes(&event.uid, out);
        put_long(event.seen_at, out);

        let site = random.below(SITES.into()).min(random.below(SITES.into())) as u32;
        let mut url = [0u8; 160];
        let url = {
            let mut rest = &mut url[..];
            write!(
                rest,
                "https://www.site{site}.example.com/{}/{}-{}-{}/index.html",
                random.pick(&SECTIONS),
                random.pick(&WORDS),
                random.pick(&WORDS),
                random.below(1_000_000),
            )
            .expect("the longest URL fits");
            let left = rest.len();
            &url[..160 - left]
        };
        put_bytes(url, out);
        if random.below(10) < 4 {
            put_long(0, out);
        } else {
            put_long(1, out);
            put_bytes(random.pick(&REFERRERS).as_bytes(), out);
        }
        put_bytes(random.pick(&AGENTS).as_bytes(), out);
        let mut ip = [0u8; 15];
        let ip = {
            let mut rest = &mut ip[..];
            let quad = (random.next() as u32 & 0x7fff_ffff) | 0x0101_0101;
            write!(rest, "{}", std::net::Ipv4Addr::from(quad)).expect("an address fits");
            let left = rest.len();
            &ip[..15 - left]
        };
        put_bytes(ip, out);
        let status = match random.below(100) {
            0..90 => 200,
            90..95 => 304,
            95..99 => 404,
            _ => 500,
        };
        put_long(status, out);
        if status == 304 {
            put_long(0, out);
        } else {
            put_long(1, out);
            put_long(random.below(200_000) as i64, out);
        }
        put_long(site.into(), out);
        put_bytes(site_name(site).as_bytes(), out);
        put_bytes(random.pick(&COUNTRIES).as_bytes(), out);

        put_items(random.below(6), out, |out| put_bytes(random.pick(&TAGS).as_bytes(), out));
        let params = random.below(3);
        let keys = ["utm_source", "page"];
        let mut at = 0;
        put_items(params, out, |out| {
            put_bytes(keys[at].as_bytes(), out);
            put_bytes(random.pick(&WORDS).as_bytes(), out);
            at += 1;
        });
        put_long(
            match random.below(20) {
                0 => 2,
                1 => 0,
                _ => 1,
            },
            out,
        );
        put_items(random.below(3), out, |out| {
            let sku = random.below(100_000);
            put_bytes(format!("SKU-{sku:06}").as_bytes(), out);
            out.extend_from_slice(&((random.below(20_000) as f64) / 100.0).to_le_bytes());
            put_long(1 + random.below(4) as i64, out);
        });
    }

    /// The next `rows` records in place of those in `frames`.
    pub fn fill(&mut self, frames: &mut Frames, rows: usize) {
        frames.buffer.clear();
        frames.ends.clear();
        let mut event = Event::default();
        for _ in 0..rows {
            self.next_into(&mut event);
            frames.buffer.extend_from_slice(&event.frame);
            frames.ends.push(frames.buffer.len());
        }
    }
}

impl Frames {
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        (0..self.ends.len()).map(|row| {
            let from = if row == 0 { 0 } else { self.ends[row - 1] };
            &self.buffer[from..self.ends[row]]
        })
    }

    pub fn bytes(&self) -> usize {
        self.buffer.len()
    }
}

/// Writes records as the Python peers read them: a little-endian u32 length before each.
pub fn write_records(out: &mut impl Write, seed: u64, rows: u64) -> std::io::Result<()> {
    let mut generator = Generator::new(seed);
    let mut event = Event::default();
    for _ in 0..rows {
        generator.next_into(&mut event);
        out.write_all(&(event.frame.len() as u32).to_le_bytes())?;
        out.write_all(&event.frame)?;
    }
    out.flush()
}

/// The sites table as CSV.
pub fn write_sites(out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "id,name,segment")?;
    for Site { id, name, segment } in (0..SITES).filter_map(site) {
        writeln!(out, "{id},{name},{segment}")?;
    }
    out.flush()
}

/// The name of a user.
pub fn uid(user: u64) -> String {
    Uid(user).to_string()
}

struct Uid(u64);

impl std::fmt::Display for Uid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "u{:016x}", Random(self.0).next())
    }
}

/// A row of the sites table.
pub struct Site {
    pub id: u32,
    pub name: String,
    pub segment: &'static str,
}

/// The row of a site, where it has one.
pub fn site(id: u32) -> Option<Site> {
    let segment = SEGMENTS[id as usize % SEGMENTS.len()];
    (id % 50 != 49).then(|| Site { id, name: site_name(id), segment })
}

fn site_name(site: u32) -> String {
    format!("Site {site}")
}

fn put_long(value: i64, out: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_long(bytes.len() as i64, out);
    out.extend_from_slice(bytes);
}

/// An Avro array or map: one block with the items, then the empty block that ends it.
fn put_items(items: u64, out: &mut Vec<u8>, mut each: impl FnMut(&mut Vec<u8>)) {
    if items > 0 {
        put_long(items as i64, out);
        (0..items).for_each(|_| each(out));
    }
    out.push(0);
}

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{Columns, decoder};
    use arrow_array::Array;
    use arrow_array::cast::AsArray;

    #[test]
    fn records_have_the_size_that_the_targets_speak_of() {
        let mut frames = Frames::default();
        Generator::new(SEED).fill(&mut frames, 100_000);
        let mean = frames.bytes() as f64 / 100_000.0;
        assert!((298.0..308.0).contains(&mean), "{mean} bytes a record");
    }

    #[test]
    fn arrow_avro_reads_what_the_encoder_writes() {
        let mut generator = Generator::new(SEED);
        let mut decoder = decoder(Columns::All).unwrap();
        let mut event = Event::default();
        let mut uids = Vec::new();
        for _ in 0..500 {
            generator.next_into(&mut event);
            assert_eq!(decoder.decode(&event.frame).unwrap(), event.frame.len());
            uids.push(String::from_utf8(event.uid.clone()).unwrap());
        }
        let rows = decoder.flush().unwrap().unwrap();
        assert_eq!((rows.num_rows(), rows.num_columns()), (500, 13));
        let decoded = rows.column_by_name("uid").unwrap().as_string::<i32>();
        assert!(decoded.iter().flatten().eq(uids.iter().map(String::as_str)));
        assert!(rows.column_by_name("referrer").unwrap().null_count() > 100);
    }

    #[test]
    fn a_seed_gives_the_same_bytes() {
        let [mut one, mut two, mut other] = [(); 3].map(|()| Vec::new());
        write_records(&mut one, 7, 100).unwrap();
        write_records(&mut two, 7, 100).unwrap();
        write_records(&mut other, 8, 100).unwrap();
        assert_eq!(one, two);
        assert_ne!(one, other);
    }

    #[test]
    fn one_site_in_fifty_is_a_miss() {
        let mut sites = Vec::new();
        write_sites(&mut sites).unwrap();
        let sites = String::from_utf8(sites).unwrap();
        assert_eq!(sites.lines().count(), 1 + SITES as usize - SITES as usize / 50);
        assert!(sites.contains("\n48,") && !sites.contains("\n49,"));
    }
}
