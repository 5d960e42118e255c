//! Bodies that are carried: shop orders, and bytes that nothing compresses.
//!
//! Promises the same bodies for the same seed. The orders are made to be as hard to compress as real ones: ids of 18
//! digits, UUIDs, a signature of 64 hex digits, names and addresses; zstd at level 1 makes 64 KiB of them 3.6
//! times smaller (the test below). A generator that compresses much better would be too easy.

use fastrand::Rng;
use std::fmt::Write as _;

/// What a body is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Body {
    /// Orders of a shop, some 760 bytes each; several, and a remark, where a body is to be longer.
    Json,
    /// Noise.
    Random,
}

const GIVEN: [&str; 24] = [
    "Wei", "Fang", "Na", "Min", "Jing", "Li", "Qiang", "Lei", "Jun", "Yang", "Yong", "Yan", "Jie",
    "Tao", "Ming", "Chao", "Xiuying", "Xia", "Ping", "Gang", "Hui", "Bo", "Ning", "Xin",
];
const FAMILY: [&str; 20] = [
    "Wang", "Li", "Zhang", "Liu", "Chen", "Yang", "Zhao", "Huang", "Zhou", "Wu", "Xu", "Sun", "Hu",
    "Zhu", "Gao", "Lin", "He", "Guo", "Ma", "Luo",
];
const STREETS: [&str; 16] = [
    "Nanjing East Road",
    "Huaihai Middle Road",
    "Century Avenue",
    "Zhongshan North Road",
    "Jianguomen Outer Street",
    "Chang'an West Avenue",
    "Wangfujing Street",
    "Yan'an Elevated Road",
    "Beijing West Road",
    "Fuxing Middle Road",
    "Hongqiao Road",
    "Xizang South Road",
    "Dongzhimen Inner Street",
    "Tianhe Road",
    "Shennan Boulevard",
    "Binjiang Avenue",
];
const DISTRICTS: [(&str, &str); 10] = [
    ("Shanghai", "Huangpu"),
    ("Shanghai", "Pudong"),
    ("Shanghai", "Xuhui"),
    ("Shanghai", "Jing'an"),
    ("Beijing", "Chaoyang"),
    ("Beijing", "Haidian"),
    ("Beijing", "Dongcheng"),
    ("Guangzhou", "Tianhe"),
    ("Shenzhen", "Futian"),
    ("Hangzhou", "Xihu"),
];
const GOODS: [&str; 14] = [
    "wireless earphones",
    "rice cooker 4L",
    "running shoes",
    "phone case",
    "down jacket",
    "electric toothbrush",
    "green tea 250g",
    "desk lamp",
    "usb-c charger 65W",
    "yoga mat",
    "baby formula 800g",
    "mechanical keyboard",
    "sunscreen SPF50",
    "thermos bottle",
];
const CHANNELS: [&str; 4] = ["app-ios", "app-android", "mini-program", "web"];

/// Of one order, at most, give or take a few.
const ORDER_BYTES: usize = 1000;

/// The next body of about `bytes` bytes: exactly so many of noise; of JSON some tens more or less, and never less than
/// an event or an order has.
pub(super) fn body(kind: Body, bytes: usize, rng: &mut Rng) -> Vec<u8> {
    match kind {
        Body::Random => {
            let mut noise = vec![0; bytes];
            rng.fill(&mut noise);
            noise
        }
        Body::Json if bytes < 200 => small(rng).into_bytes(),
        Body::Json if bytes < ORDER_BYTES => {
            let mut text = String::with_capacity(ORDER_BYTES);
            order(&mut text, rng);
            text.into_bytes()
        }
        Body::Json => orders(bytes, rng).into_bytes(),
    }
}

/// Several orders, and a remark that fills what is left.
fn orders(bytes: usize, rng: &mut Rng) -> String {
    let mut text = String::with_capacity(bytes + ORDER_BYTES);
    text.push_str(r#"{"orders":["#);
    order(&mut text, rng);
    while text.len() + ORDER_BYTES < bytes {
        text.push(',');
        order(&mut text, rng);
    }
    text.push_str(r#"],"remark":""#);
    while text.len() + 40 < bytes {
        let _ = write!(text, "{}, {}; ", pick(&STREETS, rng), pick(&GOODS, rng));
    }
    text.push_str(r#""}"#);
    text
}

/// What a small message carries: an event of an order, some 100 bytes.
fn small(rng: &mut Rng) -> String {
    format!(
        r#"{{"order":"{}","event":"paid","at":{},"amount":{}.{:02}}}"#,
        digits18(rng),
        1_764_000_000_000_u64 + rng.u64(..10_000_000),
        rng.u32(1..5_000),
        rng.u32(..100)
    )
}

fn order(text: &mut String, rng: &mut Rng) {
    let (city, district) = pick(&DISTRICTS, rng);
    let items = rng.usize(1..=3);
    let _ = write!(
        text,
        r#"{{"order_id":"{}","request_id":"{}","user_id":"{}","channel":"{}","created_at":{},"currency":"CNY","items":["#,
        digits18(rng),
        uuid(rng),
        digits18(rng),
        pick(&CHANNELS, rng),
        1_764_000_000_000_u64 + rng.u64(..10_000_000),
    );
    let mut total = 0;
    for number in 0..items {
        let (price, count) = (rng.u32(500..100_000), rng.u32(1..4));
        total += price * count;
        let comma = if number > 0 { "," } else { "" };
        let _ = write!(
            text,
            r#"{comma}{{"sku":"{}","title":"{}","price":{}.{:02},"count":{count}}}"#,
            rng.u64(10_000_000..99_999_999),
            pick(&GOODS, rng),
            price / 100,
            price % 100,
        );
    }
    let _ = write!(
        text,
        r#"],"total":{}.{:02},"receiver":{{"name":"{} {}","phone":"1{}{:08}","city":"{city}","district":"{district}","address":"{} {}, Building {}, Room {}"}},"payment":{{"method":"{}","transaction":"{}","status":"PAID"}},"trace_id":"{}","sign":"{:016x}{:016x}{:016x}{:016x}"}}"#,
        total / 100,
        total % 100,
        pick(&FAMILY, rng),
        pick(&GIVEN, rng),
        rng.u32(30..99),
        rng.u32(..100_000_000),
        rng.u32(1..2_000),
        pick(&STREETS, rng),
        rng.u32(1..30),
        rng.u32(101..2_800),
        if rng.bool() { "alipay" } else { "wechat" },
        uuid(rng),
        uuid(rng),
        rng.u64(..),
        rng.u64(..),
        rng.u64(..),
        rng.u64(..),
    );
}

fn digits18(rng: &mut Rng) -> u64 {
    rng.u64(100_000_000_000_000_000..1_000_000_000_000_000_000)
}

fn uuid(rng: &mut Rng) -> uuid::Uuid {
    uuid::Builder::from_random_bytes(rng.u128(..).to_be_bytes()).into_uuid()
}

fn pick<T: Copy>(of: &[T], rng: &mut Rng) -> T {
    of[rng.usize(..of.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_json_of_the_size_that_is_stated() {
        let mut rng = Rng::with_seed(1);
        let orders: Vec<Vec<u8>> = (0..1000).map(|_| body(Body::Json, 760, &mut rng)).collect();
        for order in &orders {
            let read: serde_json::Value = serde_json::from_slice(order).unwrap();
            assert_eq!(read["sign"].as_str().unwrap().len(), 64);
        }
        let mean = orders.iter().map(Vec::len).sum::<usize>() / orders.len();
        assert!((700..820).contains(&mean), "{mean}");
    }

    #[test]
    fn a_seed_gives_the_same_bodies_again_and_a_long_one_is_as_long_as_asked() {
        let made = |kind| body(kind, 16 * 1024, &mut Rng::with_seed(7));
        for kind in [Body::Json, Body::Random] {
            assert_eq!(made(kind), made(kind));
            assert!(made(kind).len().abs_diff(16 * 1024) < 100);
        }
        let read: serde_json::Value = serde_json::from_slice(&made(Body::Json)).unwrap();
        assert!(read["orders"].as_array().unwrap().len() > 15);
    }

    #[test]
    fn orders_compress_as_real_ones_do_and_no_better() {
        let mut rng = Rng::with_seed(3);
        let mut text = Vec::new();
        while text.len() < 64 * 1024 {
            text.extend(body(Body::Json, 760, &mut rng));
        }
        let packed = zstd::bulk::compress(&text, 1).unwrap();
        let ratio = text.len() as f64 / packed.len() as f64;
        assert!((3.2..=4.0).contains(&ratio), "{ratio}");
    }
}
