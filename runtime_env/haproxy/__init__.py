"""HAProxy with what Ray Serve 2.60 has no setting for: its configuration is edited on the way from Ray to HAProxy.

Ray runs runtime_env/haproxy.sh by RAY_SERVE_HAPROXY_BINARY_PATH. It imports little, and nothing of others: reloads wait for it.
"""
