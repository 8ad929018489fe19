# docker build -t commonpage .
# docker run -p 127.0.0.1:8080:8080 -p 127.0.0.1:10809:10809 -v commonpage:/data commonpage serve --insecure
#
# Inside the container the server listens on every address, so it asks for --insecure until authentication is
# set up: what is exposed is then decided by the ports that you publish.
# The base image is pinned by tag; to pin its digest: docker buildx imagetools inspect node:24-bookworm-slim
FROM node:24-bookworm-slim AS build
WORKDIR /src
COPY . .
RUN npm ci --ignore-scripts && npm run package -- --stage /app
RUN npm ci --ignore-scripts --omit=dev && rm node_modules/nbd-server-ts && cp -R node_modules /app/

FROM node:24-bookworm-slim
COPY --from=build /app /app
RUN ln -s /app/bin/commonpage.js /usr/local/bin/commonpage && install -d -o node -g node /data
ENV MALLOC_ARENA_MAX=1 MALLOC_MMAP_THRESHOLD_=16384 MALLOC_TRIM_THRESHOLD_=131072
ENV NODE_ENV=production COMMONPAGE_DATA=/data COMMONPAGE_HTTP__LISTEN=0.0.0.0:8080 COMMONPAGE_NBD__LISTEN=0.0.0.0:10809
USER node
VOLUME /data
EXPOSE 8080 10809
HEALTHCHECK --start-period=30s --interval=10s --timeout=6s CMD ["commonpage", "health"]
ENTRYPOINT ["commonpage"]
CMD ["serve"]
