# Makes an authority once, and certificates of it for the servers, the proxy,
# Prometheus and a client.
#
# Whoever shows a certificate of this authority may call. A server's is for the name `server` and
# for its own health check, so for clients too; a client's is of no use to a server.
set -eu
umask 077
cd /certificates

# What an interrupted run has left may belong to another user by now.
rm -f ./*/*.new

if [ ! -f authority/ca.key ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 3650 \
        -subj "/CN=CASS authority" -addext basicConstraints=critical,CA:TRUE,pathlen:0 \
        -addext keyUsage=critical,keyCertSign -keyout authority/ca.key.new -out authority/ca.crt
    # Last: it says that the authority is whole.
    mv authority/ca.key.new authority/ca.key
fi

# issue FOLDER UID NAMES USAGE: FOLDER/tls.crt, tls.key, tls.pem of both, and ca.crt, for that user.
issue() {
    printf '%s\n' "subjectAltName=$3" "extendedKeyUsage=$4" "basicConstraints=critical,CA:FALSE" \
        "keyUsage=critical,digitalSignature" "authorityKeyIdentifier=keyid" > authority/extensions
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -subj "/CN=CASS $1" \
        -keyout "$1/tls.key.new" -out authority/request
    openssl x509 -req -in authority/request -CA authority/ca.crt -CAkey authority/ca.key \
        -days 397 -extfile authority/extensions -out "$1/tls.crt.new"
    cat "$1/tls.crt.new" "$1/tls.key.new" > "$1/tls.pem.new"
    cp authority/ca.crt "$1/ca.crt.new"
    chmod 755 "$1"
    # Renamed, since those that are there belong to another user by now.
    for name in tls.key tls.crt tls.pem ca.crt; do
        chown "$2:$2" "$1/$name.new"
        mv "$1/$name.new" "$1/$name"
    done
}

issue server 10001 DNS:server serverAuth,clientAuth
issue proxy 99 "DNS:proxy,$CERTIFICATE_NAMES" serverAuth,clientAuth
issue prometheus 65534 DNS:prometheus clientAuth
issue client 0 DNS:client clientAuth
