"""Edit HAProxy's configuration on its way from Ray, for what Ray Serve 2.60 has no setting for.

Ray runs runtime_env/haproxy.sh because of RAY_SERVE_HAPROXY_BINARY_PATH. It imports little and no other package: reloads wait
for it.
"""
