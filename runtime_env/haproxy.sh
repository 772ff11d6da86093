#!/bin/sh
# HAProxy with eleven things that Ray Serve 2.60 has no setting for. Ray runs it by RAY_SERVE_HAPROXY_BINARY_PATH.
#   1. Where an app has no replica, Ray sends requests to a proxy that keeps them waiting, however long it takes. Here they are
#      answered at once: 503, Retry-After and an error in OpenAI form.
#   2. HAPROXY_BIND_HOST, if set, is the address for its statistics and metrics too, which Ray binds to all interfaces.
#   3. A client has 10 s to send its request's headers, not an hour: else 4,096 half requests keep everybody out.
#   4. HAPROXY_TLS_PEM, if set, is a file with a certificate (chain) and its key, for HTTPS at HAPROXY_TLS_BIND (such as
#      0.0.0.0:8443) beside the plain port.
#   5. Headers that are not ASCII, which Serve's replicas fail to decode (500), are refused with 400.
#   6. While an app is built anew, its replicas stay (haproxy_keep.awk).
#   7. A HAProxy that was just started, and knows no app yet, answers as in 1, where Ray's own says 404 to every path.
#   8. Every request has one id, x-request-id: the client's own if it is one (the guard's rule), else a new one. All that log it
#      use that, and every answer has it, HAProxy's own included.
#   9. HAPROXY_LOG, if set and open to writing, is a file (or a container's own output, /proc/1/fd/1) that gets a line of JSON for
#      each request, and for a connection that breaks before one (TLS); else they go where Ray sends them, a syslog.
#  10. Where Serve refuses for want of a place (429, in plain text), the error is in OpenAI form too.
#  11. Requests are not spliced (-dS): with that, HAProxy 2.8 turns in circles at full speed, and the replica is not told, when a client
#      leaves that sent its request in two pieces, as httpx and so the openai client do.
# Needs HAPROXY_BINARY, the real one, and HAPROXY_UNAVAILABLE_PORT, a free port on loopback.
set -eu
error='{"error":{"message":"The model is not available now: it is starting, or its slice is not whole. Try again later.","type":"service_unavailable_error","param":null,"code":503}}'
header='{"error":{"message":"A header of the request is not in ASCII.","type":"invalid_request_error","param":null,"code":400}}'
busy='{"error":{"message":"The model is busy. Try again later.","type":"requests","param":null,"code":"rate_limit_exceeded"}}'
request='{"time":"%[date,utime(%Y-%m-%dT%H:%M:%SZ)]","id":"%[var(txn.id)]","client":"%ci","method":"%HM","path":"%[var(txn.path),json(utf8s)]","status":%ST,"server":"%s","queued_ms":%Tw,"first_byte_ms":%Tr,"duration_ms":%Ta,"bytes":%B,"ended":"%ts"}'
broken='{"time":"%[date,utime(%Y-%m-%dT%H:%M:%SZ)]","client":"%ci","error":"%[fc_err_str,json(utf8s)]","tls_error":"%[ssl_fc_err_str,json(utf8s)]"}'
keep=$(dirname "$0")/haproxy_keep.awk
tls=
if [ -n "${HAPROXY_TLS_PEM:-}" ]; then
  tls="bind ${HAPROXY_TLS_BIND:?is the HOST:PORT for HTTPS} ssl crt $HAPROXY_TLS_PEM ssl-min-ver TLSv1.2 alpn h2,http/1.1"
fi
log=
if [ -n "${HAPROXY_LOG:-}" ] && (: >> "$HAPROXY_LOG") 2> /dev/null; then
  log='log stdout format raw local0 info'
fi
previous=
for argument in "$@"; do
  if [ "$previous" = -f ]; then
    unknown=
    grep -q '^ *use_backend' "$argument" || unknown="http-request return status 503 content-type application/json hdr Retry-After 30 string '$error'"
    awk -v memory="$argument.servers" -f "$keep" "$argument" "$argument" > "$argument.whole"
    cat > "$argument.frontend" <<EOF
    $tls
    $log
    log-format '$request'
    error-log-format '$broken'
    unique-id-format %[uuid]
    http-request set-header x-request-id %[unique-id] unless { req.fhdr_cnt(x-request-id) 1 } { req.fhdr(x-request-id) -m reg ^[A-Za-z0-9._-]{1,64}\$ }
    http-request set-var(txn.id) req.fhdr(x-request-id)
    http-request set-var(txn.path) path
    http-after-response set-header x-request-id %[var(txn.id)] unless { res.hdr(x-request-id) -m found }
    http-request return status 400 content-type application/json string '$header' if { req.hdrs -m reg '[^[:cntrl:] -~]' }
    http-response return status 429 content-type application/json hdr Retry-After 5 string '$busy' if { status 429 } { res.hdr(content-type) -m beg text/plain }
EOF
    sed -E \
      -e "s/^( *server SERVE_PROXY_ACTOR-fallback-[^ ]+) [^ ]+/\\1 127.0.0.1:$HAPROXY_UNAVAILABLE_PORT/" \
      -e "s/^( *bind )\\*?:([0-9]+)/\\1${HAPROXY_BIND_HOST:-*}:\\2/" \
      -e '/^defaults/a\
    timeout http-request 10s
' \
      -e "/^frontend http_frontend/r $argument.frontend" \
      -e "/^backend default_backend/a\\
    $unknown
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
[ -z "$log" ] || exec >> "$HAPROXY_LOG"
exec "$HAPROXY_BINARY" -dS "$@"
