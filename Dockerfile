# The command `reshard` and nothing else: the bundle that scripts/package makes, which has its own
# Java runtime.
#
#   scripts/package && docker build -t reshard .
#   docker run --rm --user $(id -u) -v /data:/data reshard --input=/data/ckpt --output=/data/out --targetWorldSize=8
FROM debian:12-slim
ADD dist/reshard-*-linux-x64.tar.gz /opt/
# A first run makes the archive of classes that lets all others start in half the time.
RUN ln -s /opt/reshard-*/bin/reshard /usr/local/bin/reshard \
 && cd /opt/reshard-*/lib \
 && RESHARD_MAKE_ARCHIVE=cache/local reshard --input=example --output=/tmp/first --targetWorldSize=2 \
 && rm -r /tmp/first
ENTRYPOINT ["reshard"]
CMD ["--help"]
