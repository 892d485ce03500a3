//! Counts of tokens and of the keys that they are checked by.

use prometheus::{
    IntCounter, IntGauge, Registry, register_int_counter_vec_with_registry,
    register_int_counter_with_registry, register_int_gauge_with_registry,
};

/// Cloning shares them.
#[derive(Debug, Clone)]
pub(super) struct TokenMetrics {
    pub(super) cached: IntCounter,
    pub(super) signatures: IntCounter,
    pub(super) keys: IntGauge,
    pub(super) file_errors: IntCounter,
    pub(super) fetched: IntCounter,
    pub(super) not_fetched: IntCounter,
    pub(super) updated: IntGauge,
}

impl TokenMetrics {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let checked = register_int_counter_vec_with_registry!(
            "sse_gateway_tokens_checked_total",
            "Tokens looked at, by what told whether they count: cache (found good before) or signature.",
            &["by"],
            registry
        )?;
        let fetches = register_int_counter_vec_with_registry!(
            "sse_gateway_jwks_fetches_total",
            "Fetches of tokens.jwks_url, by outcome: success or failure.",
            &["outcome"],
            registry
        )?;
        Ok(Self {
            cached: checked.with_label_values(&["cache"]),
            signatures: checked.with_label_values(&["signature"]),
            keys: register_int_gauge_with_registry!(
                "sse_gateway_token_keys",
                "Keys that tokens are checked by.",
                registry
            )?,
            file_errors: register_int_counter_with_registry!(
                "sse_gateway_token_key_file_errors_total",
                "Times that changed key files could not be used; the old keys count meanwhile.",
                registry
            )?,
            fetched: fetches.with_label_values(&["success"]),
            not_fetched: fetches.with_label_values(&["failure"]),
            updated: register_int_gauge_with_registry!(
                "sse_gateway_jwks_updated_timestamp_seconds",
                "When tokens.jwks_url was last fetched with success, in seconds since 1970; 0 for never.",
                registry
            )?,
        })
    }
}

/// In a registry of their own.
#[cfg(test)]
impl Default for TokenMetrics {
    fn default() -> Self {
        Self::register(&Registry::new()).unwrap()
    }
}
