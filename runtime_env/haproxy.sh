#!/bin/sh
# HAProxy with seven things that Ray Serve 2.60 has no setting for. Ray runs it by RAY_SERVE_HAPROXY_BINARY_PATH.
#   1. Where an app has no replica, Ray sends requests to a proxy that keeps them waiting, however long it takes. Here they are
#      answered at once: 503, Retry-After and an error in OpenAI form.
#   2. HAPROXY_BIND_HOST, if set, is the address for its statistics and metrics too, which Ray binds to all interfaces.
#   3. A client has 10 s to send its request's headers, not an hour: else 4,096 half requests keep everybody out.
#   4. HAPROXY_TLS_PEM, if set, is a file with a certificate (chain) and its key, for HTTPS at HAPROXY_TLS_BIND (such as
#      0.0.0.0:8443) beside the plain port.
#   5. Headers that are not ASCII, which Serve's replicas fail to decode (500), are refused with 400.
#   6. While an app is built anew, its replicas stay (haproxy_keep.awk).
#   7. Where Serve refuses for want of a place (429, in plain text), the error is in OpenAI form too.
# Needs HAPROXY_BINARY, the real one, and HAPROXY_UNAVAILABLE_PORT, a free port on loopback.
set -eu
error='{"error":{"message":"The model is not available now: it is starting, or its slice is not whole. Try again later.","type":"service_unavailable_error","param":null,"code":503}}'
header='{"error":{"message":"A header of the request is not in ASCII.","type":"invalid_request_error","param":null,"code":400}}'
busy='{"error":{"message":"The model is busy. Try again later.","type":"requests","param":null,"code":"rate_limit_exceeded"}}'
keep=$(dirname "$0")/haproxy_keep.awk
tls=
if [ -n "${HAPROXY_TLS_PEM:-}" ]; then
  tls="bind ${HAPROXY_TLS_BIND:?is the HOST:PORT for HTTPS} ssl crt $HAPROXY_TLS_PEM ssl-min-ver TLSv1.2 alpn h2,http/1.1"
fi
previous=
for argument in "$@"; do
  if [ "$previous" = -f ]; then
    awk -v memory="$argument.servers" -f "$keep" "$argument" "$argument" > "$argument.whole"
    sed -E \
      -e "s/^( *server SERVE_PROXY_ACTOR-fallback-[^ ]+) [^ ]+/\\1 127.0.0.1:$HAPROXY_UNAVAILABLE_PORT/" \
      -e "s/^( *bind )\\*?:([0-9]+)/\\1${HAPROXY_BIND_HOST:-*}:\\2/" \
      -e '/^defaults/a\
    timeout http-request 10s
' \
      -e "/^frontend http_frontend/a\\
    $tls\\
    http-request return status 400 content-type application/json string '$header' if { req.hdrs -m reg '[^[:cntrl:] -~]' }\\
    http-response return status 429 content-type application/json hdr Retry-After 5 string '$busy' if { status 429 } { res.hdr(content-type) -m beg text/plain }
" \
      "$argument.whole" > "$argument.ours"
    cat >> "$argument.ours" <<EOF
frontend unavailable
    bind 127.0.0.1:$HAPROXY_UNAVAILABLE_PORT
    mode http
    no log
    http-request return status 200 if { path -i /-/healthz }
    http-request return status 503 content-type application/json hdr Retry-After 30 string '$error'
EOF
    argument="$argument.ours"
  fi
  shift
  set -- "$@" "$argument"
  previous=$argument
done
exec "$HAPROXY_BINARY" "$@"
