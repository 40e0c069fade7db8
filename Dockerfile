# The command `reshard` and nothing else: the bundle that scripts/package makes, which has its own
# Java runtime.
#
#   scripts/package && docker build -t reshard .
#   docker run --rm -v /data:/data reshard --input=/data/ckpt --output=/data/out --targetWorldSize=8
FROM debian:12-slim
ADD dist/reshard-*-linux-x64.tar.gz /opt/
RUN ln -s /opt/reshard-*/bin/reshard /usr/local/bin/reshard
ENTRYPOINT ["reshard"]
CMD ["--help"]
