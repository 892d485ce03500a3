//! Flags of `token`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use protocol::pattern::is_pattern;
use protocol::token::{ALGORITHMS, Algorithm, DEFAULT_CLAIM, algorithm};

use super::duration;

/// After the help of `token make`.
const MAKE_HELP: &str = "\
Examples:
  A key that only gateways and token makers know, and a token that lasts an hour
    openssl rand -base64 48 > token.secret
    sse-publish token make --alg HS256 --key-file token.secret --user ann --subscribe 'chat:*'
  A key pair: the private key stays where tokens are made, gateways have the public one
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out token.key
    openssl pkey -in token.key -pubout -out token.pem
    sse-publish token make --alg ES256 --key-file token.key --subscribe news --publish news --expires 7d
  Other pairs
    openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out token.key     (RS256, PS256)
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out token.key   (ES384)
    openssl genpkey -algorithm ED25519 -out token.key                               (EdDSA)

The gateway's setting is tokens.key_files = [\"HS256 token.secret\"] or [\"ES256 token.pem\"]. A page sends a token in the
cookie sse_token, a program as `Authorization: Bearer TOKEN`.

Exit codes:
  0   it is on standard output
  1   the key's file cannot be read
  64  bad usage, or the key is none for this algorithm";

/// After the help of `token explain`.
const EXPLAIN_HELP: &str = "\
Examples:
  sse-publish token explain eyJhbGciOi...
  pbpaste | sse-publish token explain --key-file token.pem --issuer https://login.example.com

The settings that are given here, and the defaults of the others, are those of a gateway. Nothing is sent anywhere.

Exit codes:
  0   a gateway takes it, as far as could be looked at: without --key-file the signature is not
  64  bad usage, or this is no token
  77  a gateway refuses it; it is said why";

/// What to do with tokens.
#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make a token, and print it
    #[command(after_help = MAKE_HELP)]
    Make(Make),
    /// Say what a token says, what it allows, and whether it counts
    #[command(after_help = EXPLAIN_HELP)]
    Explain(Explain),
}

/// Flags of `token make`.
#[derive(Debug, Args)]
pub struct Make {
    /// File with the secret (HS256, HS384, HS512: at least 32, 48, 64 bytes, or base64: and the same in base64), or with the private key in PEM
    #[arg(long, value_name = "FILE")]
    pub key_file: PathBuf,
    /// How it is signed: HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 or EdDSA
    #[arg(long, value_name = "ALGORITHM", value_parser = known_algorithm)]
    pub alg: Algorithm,
    /// Id of the key, where gateways have several
    #[arg(long, value_name = "ID")]
    pub kid: Option<String>,
    /// Whose it is (`sub`): for limits and disconnects
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// Rooms that it opens, with * for anything; may be given again
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    pub subscribe: Vec<String>,
    /// Rooms that it may publish in over HTTP, with * for anything; may be given again
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    pub publish: Vec<String>,
    /// How long it counts
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    pub expires: Duration,
    /// Who makes it (`iss`): tokens.issuer of the gateway
    #[arg(long, value_name = "TEXT")]
    pub issuer: Option<String>,
    /// For whom (`aud`): tokens.audience of the gateway
    #[arg(long, value_name = "TEXT")]
    pub audience: Option<String>,
    /// The claim with the rooms: tokens.claim of the gateway
    #[arg(long, value_name = "NAME", default_value = DEFAULT_CLAIM)]
    pub claim: String,
    /// Print a JSON object: {"token","expires"}
    #[arg(long)]
    pub json: bool,
}

/// Flags of `token explain`.
#[derive(Debug, Args)]
pub struct Explain {
    /// The token; - or nothing reads it from standard input, where no other user of the machine can see it
    #[arg(value_name = "TOKEN", allow_hyphen_values = true)]
    pub token: Option<String>,
    /// File with a key, as gateways have it, or a JSON Web Key Set: looks at the signature too
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// What the key is for [default: what the token says]
    #[arg(long, value_name = "ALGORITHM", value_parser = known_algorithm, requires = "key_file")]
    pub alg: Option<Algorithm>,
    /// tokens.issuer of the gateway
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    pub issuer: String,
    /// tokens.audience of the gateway
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    pub audience: String,
    /// tokens.claim of the gateway
    #[arg(long, value_name = "NAME", default_value = DEFAULT_CLAIM)]
    pub claim: String,
    /// tokens.leeway of the gateway
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub leeway: Duration,
    /// tokens.max_age of the gateway
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = duration)]
    pub max_age: Duration,
    /// Print a JSON object: {"header","claims","signature","counts","why"}
    #[arg(long)]
    pub json: bool,
}

fn known_algorithm(text: &str) -> Result<Algorithm, String> {
    algorithm(text).ok_or_else(|| {
        let names = ALGORITHMS.map(|(name, _)| name);
        format!("it is one of {}", names.join(", "))
    })
}

fn pattern(text: &str) -> Result<String, String> {
    if is_pattern(text) {
        Ok(text.to_owned())
    } else {
        Err("it is a pattern of rooms such as chat:*".into())
    }
}
