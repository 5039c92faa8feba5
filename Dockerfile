# The page of `adaconv web`, on a CPU:
#   docker build -t adaconv . && docker run --rm -p 127.0.0.1:7860:7860 adaconv
FROM python:3.13-slim

RUN useradd --create-home adaconv
WORKDIR /src
COPY . .
# The installed package has all that the page needs; the sources can go.
RUN pip install --no-cache-dir '.[web]' && rm -rf /src/*

USER adaconv
WORKDIR /home/adaconv
# Compiled programs; a volume here has the owner of the folder.
RUN mkdir .cache
# Otherwise JAX would look for an accelerator first.
ENV JAX_PLATFORMS=cpu PYTHONUNBUFFERED=1
EXPOSE 7860
# Not a shell, so that `docker stop` reaches it.
ENTRYPOINT ["adaconv", "web", "--host", "0.0.0.0"]
