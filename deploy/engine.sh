#!/usr/bin/env bash
# A Docker engine for a machine that cannot pull images (Debian, root): starts dockerd if none runs, and
# makes stand-ins for the base images from Debian packages and this machine's Rust, under the names
# that deploy/Dockerfile and docker-compose.yml use. What these two rely on is as in the official images:
# paths, users, entry points. The versions are Debian's, whatever the tag says.
#
#   deploy/engine.sh           what is missing; the build image again when Cargo.lock or its packages have changed
#   deploy/engine.sh stop      stops the dockerd that it started
#
# Grafana is not made.
set -euo pipefail
cd "$(dirname "$0")/.."

state=${ENGINE_DIR:-/var/tmp/sse-gateway-engine}
compose_version=v2.40.3

say() { printf 'engine: %s\n' "$*" >&2; }
has() { command -v "$1" >/dev/null 2>&1; }

if [ "${1:-}" = stop ]; then
  if [ -e "$state/dockerd.pid" ]; then
    kill "$(cat "$state/dockerd.pid")" && rm "$state/dockerd.pid"
  fi
  exit
fi

mkdir -p "$state"
if [ "$(id -u)" != 0 ] || ! has apt-get; then
  say "this needs root on Debian"
  exit 1
fi

missing=()
has dockerd || missing+=(docker.io)
has debootstrap || missing+=(debootstrap)
if [ ${#missing[@]} != 0 ]; then
  say "installing ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" iptables >/dev/null
fi

if ! docker info >/dev/null 2>&1; then
  say "starting dockerd"
  setsid dockerd --pidfile "$state/dockerd.pid" --data-root "$state/docker" >"$state/dockerd.log" 2>&1 </dev/null &
  for _ in $(seq 100); do
    if docker info >/dev/null 2>&1; then break; fi
    sleep 0.3
  done
  docker info >/dev/null 2>&1 || {
    tail -n 20 "$state/dockerd.log" >&2
    exit 1
  }
fi

# Takes some minutes, so beside the rest; `wait` is at the end.
plugin=
if ! docker compose version >/dev/null 2>&1; then
  has go || {
    say "this needs go, to build Docker Compose"
    exit 1
  }
  say "building Docker Compose $compose_version"
  plugins=${DOCKER_CONFIG:-$HOME/.docker}/cli-plugins
  mkdir -p "$plugins" "$state/compose"
  (
    cd "$state/compose"
    [ -e go.mod ] || go mod init compose 2>/dev/null
    go get "github.com/docker/compose/v2/cmd@$compose_version" 2>/dev/null
    CGO_ENABLED=0 go build -ldflags "-s -w -X github.com/docker/compose/v2/internal.Version=$compose_version" -o "$plugins/docker-compose" github.com/docker/compose/v2/cmd
  ) &
  plugin=$!
fi

# The names, from where they are used.
argument() { sed -n "s/^ARG $1=//p" deploy/Dockerfile; }
service() { sed -n "s|^ *image: \($1:[^ ]*\)\$|\1|p" docker-compose.yml; }
build_image=$(argument BUILD_IMAGE) runtime_image=$(argument RUNTIME_IMAGE)
there() { docker image inspect "$1" >/dev/null 2>&1; }

suite=${runtime_image#*:}
suite=${suite%-slim}
base=$state/$suite
if [ ! -e "$base.done" ]; then
  say "debootstrap $suite"
  rm -rf "$base"
  debootstrap --variant=minbase "$suite" "$base" >"$state/debootstrap.log"
  # What the official slim image leaves out, and what a chroot must not do.
  rm -rf "$base"/usr/share/{doc,man,info,locale}/* "$base"/var/{cache/apt,lib/apt/lists}/*
  printf '#!/bin/sh\nexit 101\n' >"$base/usr/sbin/policy-rc.d"
  chmod +x "$base/usr/sbin/policy-rc.d"
  touch "$base.done"
fi

# root PACKAGE...: prints the folder of a copy of the base with these packages in it.
root() {
  local folder
  folder=$(mktemp -d "$state/root.XXXXXX")
  cp -a "$base/." "$folder/"
  cp /etc/resolv.conf "$folder/etc/resolv.conf"
  chroot "$folder" sh -c 'apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"' sh "$@" >"$state/apt.log" 2>&1 ||
    { tail -n 5 "$state/apt.log" >&2; return 1; }
  rm -rf "$folder"/var/{cache/apt,lib/apt/lists}/* "$folder/etc/resolv.conf"
  echo "$folder"
}
# image NAME FOLDER CHANGE...: makes an image of a folder, and removes the folder.
image() {
  local name=$1 folder=$2 changes=(--change 'ENV PATH=/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin')
  shift 2
  for change in "$@"; do changes+=(--change "$change"); done
  tar -C "$folder" -c . | docker import "${changes[@]}" - "$name" >/dev/null
  [ "$folder" = "$base" ] || rm -rf "$folder"
  say "made $name"
}

there "$runtime_image" || image "$runtime_image" "$base" 'CMD ["bash"]'

# With the crates of Cargo.lock in it, so that a build needs no network. Of what the official image has, only what the
# build uses: a C compiler for TLS, without CMake, and the CA certificates that go into the image.
packages=(gcc libc6-dev ca-certificates)
lock=$({ cat Cargo.lock && echo "${packages[*]}"; } | sha256sum | cut -c1-16)
if [ "$(docker image inspect -f '{{.Config.Labels.lock}}' "$build_image" 2>/dev/null)" != "$lock" ]; then
  folder=$(root "${packages[@]}")
  sysroot=$(rustc --print sysroot)
  host=$(rustc -vV | sed -n 's/^host: //p')
  # rustc looks for its libraries beside its own folder.
  mkdir -p "$folder"/usr/local/cargo/{bin,lib/rustlib}
  cp -a "$sysroot"/bin/{cargo,rustc} "$folder/usr/local/cargo/bin/"
  cp -a "$sysroot"/lib/*.so* "$folder/usr/local/cargo/lib/"
  cp -a "$sysroot/lib/rustlib/$host" "$folder/usr/local/cargo/lib/rustlib/"
  cargo vendor --locked --versioned-dirs "$folder/usr/local/cargo/vendor" >/dev/null 2>"$state/vendor.log"
  printf '[source.crates-io]\nreplace-with = "vendored"\n[source.vendored]\ndirectory = "/usr/local/cargo/vendor"\n' \
    >"$folder/usr/local/cargo/config.toml"
  image "$build_image" "$folder" 'ENV CARGO_HOME=/usr/local/cargo' "LABEL lock=$lock"
fi

name=$(service redis)
if ! there "$name"; then
  folder=$(root redis-server)
  # The user of the official image, whose number docker-compose.yml names.
  sed -i -E 's/^redis:x:[0-9]+:[0-9]+:/redis:x:999:999:/' "$folder/etc/passwd"
  sed -i -E 's/^redis:x:[0-9]+:/redis:x:999:/' "$folder/etc/group"
  mkdir "$folder/data"
  chown 999:999 "$folder/data"
  printf '#!/bin/sh\nexec "$@"\n' >"$folder/usr/local/bin/docker-entrypoint.sh"
  chmod +x "$folder/usr/local/bin/docker-entrypoint.sh"
  image "$name" "$folder" 'ENTRYPOINT ["docker-entrypoint.sh"]' 'CMD ["redis-server"]' 'WORKDIR /data' 'VOLUME /data' 'EXPOSE 6379'
fi

name=$(service haproxy)
if ! there "$name"; then
  folder=$(root haproxy)
  mkdir -p "$folder/usr/local/etc/haproxy"
  printf '#!/bin/sh\n[ "$1" != haproxy ] || { shift; set -- haproxy -W -db "$@"; }\nexec "$@"\n' \
    >"$folder/usr/local/bin/docker-entrypoint.sh"
  chmod +x "$folder/usr/local/bin/docker-entrypoint.sh"
  image "$name" "$folder" 'ENTRYPOINT ["docker-entrypoint.sh"]' \
    'CMD ["haproxy", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]' 'USER haproxy'
fi

name=$(service prom/prometheus)
if ! there "$name"; then
  # The official image has the wget of BusyBox, for the health check.
  folder=$(root prometheus wget)
  mkdir -p "$folder/prometheus"
  rm -rf "$folder/etc/prometheus"/*
  chown 65534:65534 "$folder/prometheus"
  image "$name" "$folder" 'ENTRYPOINT ["/bin/prometheus"]' 'WORKDIR /prometheus' 'VOLUME /prometheus' 'USER nobody' 'EXPOSE 9090'
fi
[ -z "$plugin" ] || wait "$plugin"
say "ready: $(docker version -f '{{.Server.Version}}'), Compose $(docker compose version --short)"
