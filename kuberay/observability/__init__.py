"""Dashboards and alert rules as data, and the forms that Grafana, Prometheus and Kubernetes take. Needs no Kubernetes."""
