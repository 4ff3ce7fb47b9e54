//! Where a call comes from, when there are proxies in between.

use std::net::IpAddr;

use axum::http::HeaderMap;
use ipnet::IpNet;

const FORWARDED_FOR: &str = "x-forwarded-for";
/// More proxies in a row than anybody has.
const MAX_HOPS: usize = 16;

/// The address that a call comes from: that of the connection or, if that is a proxy we trust, the last one
/// before it that is none. What somebody in front of the proxies wrote into the header is not looked at.
pub(crate) fn origin(connection: Option<IpAddr>, headers: &HeaderMap, trusted: &[IpNet]) -> Option<IpAddr> {
    let mut origin = connection?.to_canonical();
    let is_trusted = |address: &IpAddr| trusted.iter().any(|net| net.contains(address));
    // A proxy appends to the last line, or adds one.
    let lines = headers.get_all(FORWARDED_FOR).iter().rev();
    let hops = lines.flat_map(|line| line.to_str().unwrap_or_default().rsplit(','));
    for hop in hops.take(MAX_HOPS) {
        if !is_trusted(&origin) {
            break;
        }
        let Ok(address) = hop.trim().parse::<IpAddr>() else { break };
        origin = address.to_canonical();
    }
    Some(origin)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(connection: &str, lines: &[&str], trusted: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, line.parse().unwrap());
        }
        let trusted: Vec<IpNet> = trusted.iter().map(|net| net.parse().unwrap()).collect();
        origin(Some(connection.parse().unwrap()), &headers, &trusted).unwrap().to_string()
    }

    #[test]
    fn nobody_is_believed_by_default() {
        assert_eq!(seen("192.0.2.9", &["198.51.100.1"], &[]), "192.0.2.9");
    }

    #[test]
    fn the_last_address_that_is_no_proxy_of_ours_counts() {
        let ours = ["10.0.0.0/8"];
        assert_eq!(seen("10.0.0.1", &["203.0.113.7"], &ours), "203.0.113.7");
        assert_eq!(seen("10.0.0.1", &["1.1.1.1, 203.0.113.7, 10.9.9.9"], &ours), "203.0.113.7");
        assert_eq!(seen("10.0.0.1", &["1.1.1.1", "203.0.113.7", "10.9.9.9"], &ours), "203.0.113.7");
        assert_eq!(seen("192.0.2.9", &["203.0.113.7"], &ours), "192.0.2.9", "not by a proxy");
        assert_eq!(seen("::ffff:10.0.0.1", &["203.0.113.7"], &ours), "203.0.113.7");
    }

    #[test]
    fn nonsense_stops_at_the_last_address_that_is_sure() {
        let ours = ["10.0.0.0/8"];
        assert_eq!(seen("10.0.0.1", &["203.0.113.7, unknown"], &ours), "10.0.0.1");
        assert_eq!(seen("10.0.0.1", &["203.0.113.7, x, 10.0.0.2"], &ours), "10.0.0.2");
        assert_eq!(seen("10.0.0.1", &[], &ours), "10.0.0.1");
        assert_eq!(seen("10.0.0.1", &[&"10.0.0.3,".repeat(5000)], &ours), "10.0.0.1");
    }
}
