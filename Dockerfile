# Tollgate in a small image: no shell scripts, no root, nothing written to disk.
#
#   docker build -t tollgate .
#   docker run --read-only -p 8080:8080 -p 8081:8081 -v "$PWD/config:/etc/tollgate:ro" tollgate
FROM rust:1.95-slim-bookworm AS build
# The allocator is built from C.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev make
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin tollgate

FROM debian:bookworm-slim
COPY --from=build /src/target/release/tollgate /usr/local/bin/tollgate
# Nobody. By number, so that Kubernetes can see that it is not root.
USER 65534:65534
# 8080: HTTP, health and metrics. 8081: gRPC, for Envoy.
EXPOSE 8080 8081
ENTRYPOINT ["/usr/local/bin/tollgate"]
CMD ["serve", "--config", "/etc/tollgate"]
