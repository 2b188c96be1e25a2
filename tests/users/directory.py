"""A real slapd on loopback, with people as Active Directory keeps them: `userAccountControl` says who is disabled."""

import shutil
import signal
import subprocess

import web

SUFFIX = "dc=example,dc=test"
PEOPLE = f"ou=people,{SUFFIX}"
MANAGER, PASSWORD = f"cn=admin,{SUFFIX}", "admin-pw"
NORMAL, DISABLED = 512, 514  # userAccountControl: NORMAL_ACCOUNT; with the bit ACCOUNTDISABLE

CONFIGURATION = """\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
attributetype ( 1.2.840.113556.1.4.8 NAME 'userAccountControl'
    SYNTAX 1.3.6.1.4.1.1466.115.121.1.27 EQUALITY integerMatch SINGLE-VALUE )
attributetype ( 1.2.840.113556.1.4.96 NAME 'pwdLastSet'
    SYNTAX 1.3.6.1.4.1.1466.115.121.1.27 EQUALITY integerMatch SINGLE-VALUE )
objectclass ( 1.3.6.1.4.1.32473.1 NAME 'adAccount' SUP top AUXILIARY MAY ( userAccountControl $ pwdLastSet ) )
modulepath /usr/lib/ldap
moduleload back_mdb
database mdb
suffix "{suffix}"
rootdn "{manager}"
rootpw {password}
directory {folder}
"""
TOP = f"""\
dn: {SUFFIX}
objectClass: dcObject
objectClass: organization
dc: example
o: Example

dn: {PEOPLE}
objectClass: organizationalUnit
ou: people
"""
PERSON = f"""
dn: uid={{uid}},{PEOPLE}
objectClass: inetOrgPerson
objectClass: adAccount
uid: {{uid}}
cn: {{uid}}
sn: Directory
mail: {{uid}}@example.test
userPassword: {{uid}}-pw
pwdLastSet: 133000000000000000
userAccountControl: {NORMAL}
"""


def is_installed():
    return shutil.which("slapd") is not None and shutil.which("ldapmodify") is not None


class Directory:
    def __init__(self, folder, people):
        self.url = f"ldap://127.0.0.1:{web.free_port()}"
        self._process = None
        self._folder = folder
        entries = TOP + "".join(PERSON.format(uid=uid) for uid in people)
        self._configurations = {"people": self._database("people", entries), "nobody": self._database("nobody", TOP)}

    def _database(self, name, entries):
        folder = self._folder / name
        folder.mkdir()
        configuration = self._folder / f"{name}.conf"
        configuration.write_text(
            CONFIGURATION.format(suffix=SUFFIX, manager=MANAGER, password=PASSWORD, folder=folder)
        )
        subprocess.run(["slapadd", "-f", configuration], input=entries.encode(), check=True)
        return configuration

    def start(self, whom="people"):
        """With `nobody` it answers well, and holds none of the people."""
        command = ["slapd", "-f", self._configurations[whom], "-h", self.url, "-d", "0"]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        web.eventually("slapd answers", self._answers)

    def _answers(self):
        search = ["ldapsearch", "-x", "-H", self.url, "-D", MANAGER, "-w", PASSWORD, "-b", SUFFIX, "-s", "base"]
        return subprocess.run(search, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0

    def stop(self):
        if self._process:
            self._process.terminate()
            self._process.wait()
        self._process = None

    def freeze(self):
        """It accepts connections and never answers."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self._process.send_signal(signal.SIGCONT)

    def set_account_control(self, uid, value):
        change = f"dn: uid={uid},{PEOPLE}\nchangetype: modify\nreplace: userAccountControl\nuserAccountControl: {value}\n"
        modify = ["ldapmodify", "-x", "-H", self.url, "-D", MANAGER, "-w", PASSWORD]
        subprocess.run(modify, input=change.encode(), stdout=subprocess.DEVNULL, check=True)


class Federation:
    """The directory as a provider of users in Keycloak."""

    def __init__(self, keycloak, directory):
        self._keycloak = keycloak
        self._provider = self._component(keycloak.admin("GET", "").json["id"], "ldap", "UserStorageProvider", {
            "enabled": "true", "priority": "0", "editMode": "READ_ONLY", "syncRegistrations": "false",
            "importEnabled": "true", "vendor": "other", "usernameLDAPAttribute": "uid", "rdnLDAPAttribute": "uid",
            "uuidLDAPAttribute": "entryUUID", "userObjectClasses": "inetOrgPerson", "connectionUrl": directory.url,
            "usersDn": PEOPLE, "searchScope": "1", "authType": "simple", "bindDn": MANAGER, "bindCredential": PASSWORD,
            "useTruststoreSpi": "never", "connectionPooling": "false", "pagination": "false",
            "connectionTimeout": "1000", "readTimeout": "1000", "cachePolicy": "DEFAULT",
            "fullSyncPeriod": "-1", "changedSyncPeriod": "-1",
        })
        mapper = "msad-user-account-control-mapper"
        self._component(self._provider, mapper, "ldap.mappers.LDAPStorageMapper", {})

    def _component(self, parent, provider, kind, settings):
        answer = self._keycloak.admin("POST", "/components", {
            "name": provider, "providerId": provider, "providerType": f"org.keycloak.storage.{kind}",
            "parentId": parent, "config": {name: [value] for name, value in settings.items()},
        })
        return answer.headers["location"].rsplit("/", 1)[1]

    def synchronise(self):
        self._keycloak.admin("POST", f"/user-storage/{self._provider}/sync?action=triggerFullSync")

    def forget(self):
        """What Keycloak remembers of users; until then it need not ask the directory."""
        self._keycloak.admin("POST", "/clear-user-cache")

    def remove(self):
        self._keycloak.admin("DELETE", f"/components/{self._provider}")
