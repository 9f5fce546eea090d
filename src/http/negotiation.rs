//! Selects the media type of a response, by RFC 9110 section 12.5.1.

use hyper::header::ACCEPT;
use hyper::http::request::Parts;

/// Returns the offered media type that the client prefers, and the first one among equals. A client
/// that accepts none of them gets the first one, too.
pub fn preferred<'t>(head: &Parts, offered: &[&'t str]) -> &'t str {
    let accept: Vec<&str> =
        head.headers.get_all(ACCEPT).into_iter().filter_map(|value| value.to_str().ok()).collect();
    let mut best = (offered.first().copied().unwrap_or_default(), 0.0);
    for &media_type in offered {
        let quality = quality(&accept, media_type);
        if quality > best.1 {
            best = (media_type, quality);
        }
    }
    best.0
}

/// Returns the quality of the most specific range that matches.
fn quality(accept: &[&str], media_type: &str) -> f32 {
    if accept.is_empty() {
        return 1.0;
    }
    let family = media_type.split('/').next().unwrap_or_default();
    let mut found = (0, 0.0);
    for range in accept.iter().flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let fits = match name.split_once('/') {
            Some(("*", "*")) => 1,
            Some((of, "*")) if of.eq_ignore_ascii_case(family) => 2,
            _ if name.eq_ignore_ascii_case(media_type) => 3,
            _ => 0,
        };
        let weight =
            parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        let weight = weight.map_or(1.0, |q| q.parse::<f32>().unwrap_or(0.0).clamp(0.0, 1.0));
        if fits > found.0 {
            found = (fits, weight);
        }
    }
    found.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_gets_what_it_likes_best() {
        const OFFERED: [&str; 3] = ["application/json", "application/x-ndjson", "text/csv"];
        for (accept, expected) in [
            (&[][..], "application/json"),
            (&["*/*"], "application/json"),
            (&["text/csv"], "text/csv"),
            (&["Text/CSV; header=present"], "text/csv"),
            (&["application/json, text/csv;q=0.1"], "application/json"),
            (&["application/json;q=0.2, text/csv; q=0.9"], "text/csv"),
            (&["text/*, */*;q=0.5"], "text/csv"),
            (&["text/csv;q=0, */*"], "application/json"),
            (&["application/json;q=0", "application/x-ndjson"], "application/x-ndjson"),
            (&["application/*;q=0.1, text/csv;q=0"], "application/json"),
            (&["image/png"], "application/json"),
            (&["text/csv;q=high"], "application/json"),
        ] {
            let mut request = hyper::Request::new(());
            for value in accept {
                request.headers_mut().append(ACCEPT, value.parse().unwrap());
            }
            let (head, ()) = request.into_parts();
            assert_eq!(preferred(&head, &OFFERED), expected, "{accept:?}");
        }
    }
}
