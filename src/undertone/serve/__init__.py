"""The service: REST, live streams and the page, on one address (extra ``web``).

:func:`undertone.serve.app.create_app` makes the application, :func:`undertone.serve.server.run` serves it, and
``undertone serve`` is both on the command line. What an upload goes through, in this order:

``http``        token, origin, request id, log line, headers: before anything is read
``uploads``     the body, into memory, within the limits on bytes, files and time
``decoding``    untrusted bytes become a waveform in a process of their own (``decode_worker``), which may die
``inference``   waveforms become probabilities on a few threads, waiting ones in batches of similar length
"""
