# The server's image, built in one of two ways:
#   docker build .                       compiles inside the image
#   docker build --target prebuilt .     copies target/release/catbird-server, compiled on a machine with the same libc

FROM debian:bookworm-slim AS runtime
# Root certificates, to verify PLC directories, hosts of DID documents, and databases.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin catbird
USER catbird
ENV SERVER_HOST=0.0.0.0 SERVER_PORT=3000
EXPOSE 3000
# A liveness check that needs no further program: bash opens the connection itself.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/$SERVER_PORT && printf 'GET /health/live HTTP/1.0\\r\\n\\r\\n' >&3 && read -r status <&3 && [[ $status == *' 200 '* ]]"]
ENTRYPOINT ["catbird-server"]

FROM runtime AS prebuilt
COPY target/release/catbird-server /usr/local/bin/catbird-server

FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin catbird-server \
    && cp target/release/catbird-server /catbird-server

FROM runtime AS server
COPY --from=build /catbird-server /usr/local/bin/catbird-server
