#!/usr/bin/env bash
# Builds the release programs and packs them with what belongs to them:
# target/dist/sse-gateway-VERSION-TARGET.tar.gz, and its checksum beside it. Static, by the musl target,
# where that is installed; else for glibc. The name says which.
#
#   deploy/dist.sh
#   TARGET=aarch64-unknown-linux-gnu deploy/dist.sh
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'dist: %s\n' "$*" >&2; }
installed() { compgen -G "$(rustc --print target-libdir --target "$1" 2>/dev/null)/libstd-*" >/dev/null; }

version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
host=$(rustc -vV | sed -n 's/^host: //p')
musl=${host%-gnu}-musl
if [ -z "${TARGET:-}" ]; then
  if installed "$musl" && command -v musl-gcc >/dev/null; then
    TARGET=$musl
  else
    TARGET=$host
    say "the target $musl (rustup target add $musl) or its C compiler (Debian: musl-tools) is not installed: the programs will need this machine's glibc or a later one"
  fi
fi

# The release profile keeps line tables; here they would only be weight.
export CARGO_PROFILE_RELEASE_DEBUG=none CARGO_PROFILE_RELEASE_STRIP=symbols
cargo build --release --locked --workspace --bins --target "$TARGET"

# Nothing in the archive depends on when and by whom it was made.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)

programs=(sse-gateway sse-publish sse-loadtest)
name=sse-gateway-$version-$TARGET
dist=target/dist
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/$name
mkdir -p "$root"/bin "$dist"
for program in "${programs[@]}"; do
  cp "${CARGO_TARGET_DIR:-target}/$TARGET/release/$program" "$root/bin/"
done
cp LICENSE README.md CHANGELOG.md "$root/"
# What an installation without containers takes: the unit, proxies, alerts, dashboards, documents.
for path in deploy/systemd deploy/haproxy.cfg deploy/nginx.conf deploy/errors deploy/prometheus/alerts.yml \
  deploy/grafana/*.json docs/*.md; do
  if [ -e "$path" ]; then cp -r --parents "$path" "$root/"; fi
done

# The programs write these themselves, so those for another processor go without.
if "$root/bin/sse-gateway" --version >/dev/null 2>&1; then
  mkdir -p "$root"/completions/{bash,zsh,fish}
  for program in "${programs[@]}"; do
    "$root/bin/$program" completions bash >"$root/completions/bash/$program"
    "$root/bin/$program" completions zsh >"$root/completions/zsh/_$program"
    "$root/bin/$program" completions fish >"$root/completions/fish/$program.fish"
  done
  mkdir "$root/man"
  for program in "${programs[@]}"; do "$root/bin/$program" man "$root/man"; done
  # The examples and exit codes of --help.
  sed -i 's/^\.SH EXTRA$/.SH NOTES/' "$root"/man/*.1
else
  say "programs for $TARGET do not run here: no completions, no man pages"
fi

tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner --mode=go-w \
  --mtime="@$SOURCE_DATE_EPOCH" -c "$name" | gzip -9n >"$dist/$name.tar.gz"
(cd "$dist" && sha256sum "$name.tar.gz" >"$name.tar.gz.sha256")
say "$dist/$name.tar.gz has $(wc -c <"$dist/$name.tar.gz") bytes"
