"""An engine without a model: it responds with made-up text in the time that the described slice would take at best.

It serves load tests, the page and failure drills where there is no TPU, and is named in every response's `system_fingerprint`.
"""

FINGERPRINT = "simulated"
