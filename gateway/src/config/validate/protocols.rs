//! TLS, HTTP/2 and the PROXY header: what goes together. Whether the files can be used is found at the start.

use super::{Config, ConfigError, rule};

/// Streams of one HTTP/2 connection: browsers count on 100 at least (RFC 9113, section 6.5.2).
const STREAMS: std::ops::RangeInclusive<u32> = 100..=10_000;

/// # Errors
/// The first rule that is broken.
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    let (tls, admin, http) = (&config.tls, &config.admin, &config.http);
    for (section, cert, key, client_ca) in [
        ("tls", &tls.cert_file, &tls.key_file, &tls.client_ca_file),
        (
            "admin",
            &admin.cert_file,
            &admin.key_file,
            &admin.client_ca_file,
        ),
    ] {
        rule(cert.is_empty() == key.is_empty(), || {
            let (is, lacks) = if cert.is_empty() {
                ("key_file", "cert_file")
            } else {
                ("cert_file", "key_file")
            };
            format!("{section}.{is} is set and {section}.{lacks} is not: TLS needs both")
        })?;
        rule(client_ca.is_empty() || !cert.is_empty(), || {
            format!(
                "{section}.client_ca_file is set and {section}.cert_file is not: clients show certificates over TLS only"
            )
        })?;
    }
    let streams = http.http2_streams;
    rule(STREAMS.contains(&streams), || {
        format!("http.http2_streams is {streams}, not 100 to 10000")
    })?;
    rule(
        !http.proxy_protocol || !http.trusted_proxies.is_empty(),
        || {
            "http.proxy_protocol is on and http.trusted_proxies is empty: name the proxies whose word counts".to_owned()
        },
    )
}
