//! IP addresses as 16 bytes, IPv4 mapped into IPv6, so that both compare in one order and a range
//! of either can be looked up.

use super::own::{Addresses, Args, Own, Takes, Texts, fail};
use arrow_array::builder::{BooleanBuilder, FixedSizeBinaryBuilder, StringBuilder};
use arrow_array::{ArrayRef, Int32Array};
use arrow_schema::DataType;
use datafusion_common::Result;
use datafusion_expr::ScalarUDF;
use millstream_core::types::IP;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

pub(super) fn functions() -> Vec<ScalarUDF> {
    let of = |name, takes, gives, run| Own { name, takes, variadic: false, gives, run };
    [
        of("ip", &[Takes::Text], IP, |args| parse_all(args, true)),
        of("try_ip", &[Takes::Text], IP, |args| parse_all(args, false)),
        of("ip_text", &[Takes::Address], DataType::Utf8, ip_text),
        of("ip_family", &[Takes::TextOrAddress], DataType::Int32, ip_family),
        of("ip_in_cidr", &[Takes::TextOrAddress, Takes::Text], DataType::Boolean, ip_in_cidr),
    ]
    .into_iter()
    .map(Own::build)
    .collect()
}

/// Says what is wrong with a network that the SQL writes out.
pub(super) fn check_cidr(text: &str) -> Result<(), String> {
    match Network::parse(text) {
        Some(_) => Ok(()),
        None => Err(format!("`{text}` is not a network such as 10.0.0.0/8 or 2001:db8::/32")),
    }
}

fn parse(text: &str) -> Option<[u8; 16]> {
    let address: IpAddr = text.trim().parse().ok()?;
    Some(match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    })
}

fn parse_all(args: &Args, strict: bool) -> Result<ArrayRef> {
    let texts = args.text(0)?;
    let mut out = FixedSizeBinaryBuilder::with_capacity(args.rows, 16);
    for row in 0..args.rows {
        match texts.get(row).map(|text| (text, parse(text))) {
            Some((_, Some(octets))) => out.append_value(octets)?,
            Some((text, None)) if strict => {
                let text: String = text.chars().take(60).collect();
                return fail(format!("`{text}` is not an IP address"));
            }
            _ => out.append_null(),
        }
    }
    Ok(Arc::new(out.finish()))
}

/// An address argument, given as text or as bytes. Text that is none fails the row.
enum Input<'a> {
    Text(Texts<'a>),
    Bytes(Addresses<'a>),
}

impl<'a> Input<'a> {
    fn of(args: &'a Args) -> Result<Self> {
        match args.is_text(0) {
            true => args.text(0).map(Input::Text),
            false => args.address(0).map(Input::Bytes),
        }
    }

    fn get(&self, row: usize) -> Result<Option<[u8; 16]>> {
        match self {
            Input::Bytes(bytes) => Ok(bytes.get(row).and_then(|bytes| bytes.try_into().ok())),
            Input::Text(texts) => match texts.get(row) {
                None => Ok(None),
                Some(text) => match parse(text) {
                    Some(octets) => Ok(Some(octets)),
                    None => fail(format!("`{text}` is not an IP address")),
                },
            },
        }
    }
}

fn ip_text(args: &Args) -> Result<ArrayRef> {
    let addresses = args.address(0)?;
    let mut out = StringBuilder::new();
    for row in 0..args.rows {
        let octets: Option<[u8; 16]> = addresses.get(row).and_then(|bytes| bytes.try_into().ok());
        out.append_option(octets.map(|octets| {
            let v6 = Ipv6Addr::from(octets);
            v6.to_ipv4_mapped().map_or_else(|| v6.to_string(), |v4| v4.to_string())
        }));
    }
    Ok(Arc::new(out.finish()))
}

fn ip_family(args: &Args) -> Result<ArrayRef> {
    let input = Input::of(args)?;
    let families: Int32Array = (0..args.rows)
        .map(|row| {
            Ok(input.get(row)?.map(|octets| {
                if Ipv6Addr::from(octets).to_ipv4_mapped().is_some() { 4 } else { 6 }
            }))
        })
        .collect::<Result<_>>()?;
    Ok(Arc::new(families))
}

struct Network {
    prefix: u128,
    mask: u128,
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.trim().parse::<u32>().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.trim().parse().ok()?;
        let (octets, bits) = match address {
            IpAddr::V4(v4) => {
                let bits = bits.unwrap_or(32);
                (v4.to_ipv6_mapped().octets(), if bits > 32 { return None } else { bits + 96 })
            }
            IpAddr::V6(v6) => (v6.octets(), bits.unwrap_or(128)),
        };
        let mask = match bits {
            0 => 0,
            1..=128 => u128::MAX << (128 - bits),
            _ => return None,
        };
        Some(Self { prefix: u128::from_be_bytes(octets) & mask, mask })
    }

    fn holds(&self, octets: [u8; 16]) -> bool {
        u128::from_be_bytes(octets) & self.mask == self.prefix
    }
}

fn ip_in_cidr(args: &Args) -> Result<ArrayRef> {
    let input = Input::of(args)?;
    let networks = args.text(1)?;
    let mut out = BooleanBuilder::with_capacity(args.rows);
    let mut last: Option<(&str, Network)> = None;
    for row in 0..args.rows {
        let (Some(octets), Some(text)) = (input.get(row)?, networks.get(row)) else {
            out.append_null();
            continue;
        };
        if last.as_ref().is_none_or(|(parsed, _)| *parsed != text) {
            match Network::parse(text) {
                Some(network) => last = Some((text, network)),
                None => return fail(format!("`{text}` is not a network such as 10.0.0.0/8")),
            }
        }
        out.append_option(last.as_ref().map(|(_, network)| network.holds(octets)));
    }
    Ok(Arc::new(out.finish()))
}
