# The server's image, built in one of two ways; ops/image does both, with all labels:
#   docker build .                       compiles inside the image
#   docker build --target prebuilt .     copies target/release/catbird-server, compiled on a machine with Debian 12's libc or an older one
#
# It has the server, the libraries that it loads, root certificates and `env`; no shell and no package manager. BuildKit builds it.

FROM debian:bookworm-slim AS files
# Root certificates, to verify PLC directories, hosts of DID documents, and databases.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libgcc-s1 \
    && rm -rf /var/lib/apt/lists/*
# `docker compose exec server env` shows the settings. Scanners read the versions of the packages in status.d.
RUN mkdir -p /image/var/lib/dpkg/status.d \
    && cp --parents -L /lib*/ld-linux-*.so.* /lib/*-linux-gnu/libc.so.6 /lib/*-linux-gnu/libm.so.6 /lib/*-linux-gnu/libgcc_s.so.1 \
        /usr/bin/env /etc/ssl/certs/ca-certificates.crt /etc/nsswitch.conf /etc/os-release /image \
    && for package in libc6 libgcc-s1 coreutils ca-certificates; do \
        dpkg-query --status "$package" >"/image/var/lib/dpkg/status.d/$package" \
        && cp --parents -L "/usr/share/doc/$package/copyright" /image; \
    done \
    && printf 'catbird:x:10001:10001::/:/nonexistent\n' >/image/etc/passwd \
    && printf 'catbird:x:10001:\n' >/image/etc/group

# The folder for blobs, which a volume may cover. The parent is copied, because only what is in it gets the owner.
RUN mkdir -p /state/catbird

FROM scratch AS runtime
COPY --from=files /image /
COPY --from=files --chown=10001:10001 /state/ /var/lib/
COPY LICENSE /usr/share/doc/catbird-server/copyright
USER 10001:10001
ENV SERVER_HOST=0.0.0.0 SERVER_PORT=3000 DATA_DIR=/var/lib/catbird
EXPOSE 3000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 CMD ["catbird-server", "health"]
ENTRYPOINT ["catbird-server"]
# A test compares the version with Cargo.toml.
ARG VERSION=1.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="catbird-mls-server" \
      org.opencontainers.image.description="An MLS delivery service on AT Protocol identity" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"

FROM runtime AS prebuilt
COPY target/release/catbird-server /usr/local/bin/catbird-server

FROM rust:1-bookworm AS build
# Writes the list of crates into the program, where scanners and `cargo audit bin` find it.
RUN --mount=type=cache,target=/usr/local/cargo/registry cargo install --locked cargo-auditable@0.7.7
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo auditable build --release --locked --bin catbird-server \
    && cp target/release/catbird-server /catbird-server

FROM runtime AS server
COPY --from=build /catbird-server /usr/local/bin/catbird-server
