"""What connects metering with frameworks. Each module is imported by who needs it; none needs the framework itself.

`asgi` and `wsgi` say the tenant of each request and may count it; `otel` puts the tenant on spans.
"""
